"""prune.py as a user types it, with a tiny model."""

from __future__ import annotations

import pytest
import yaml
from typed import call, runs

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.report.results import Results


def test_prune_reuses_the_adaptation_and_changes_only_what_is_typed(trained):
    parent = runs(trained, "train")[0]
    call("prune.py", trained, f"run={parent}", "sparsity=0.6", "pruning=magnitude", "logger=csv")
    run = runs(trained, "prune")[-1]
    results = Results.load(run / "abr/results.json")
    assert (results.sparsity, results.pruning["method"]) == (0.6, "magnitude")
    before, after = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (parent, run))
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"sparsity", "pruning", "run", "logger"}
    dense = [Results.load(folder / "abr/results.json").policies["dense"]["test/qoe"].mean for folder in (parent, run)]
    assert dense[0] == pytest.approx(dense[1])


@pytest.mark.slow
def test_a_pruned_run_is_pruned_further_only_by_force_and_never_back(trained):
    parent = runs(trained, "train")[0]
    call("prune.py", trained, f"run={parent}", "sparsity=0.5", "pruning=wanda", "logger=csv")
    pruned = runs(trained, "prune")[-1]
    output = call("prune.py", trained, f"run={pruned}", "sparsity=0.8", "logger=csv", ok=False)
    assert "is pruned already (wanda, 50%)" in output
    assert "pruning.force=true" in output
    output = call("prune.py", trained, f"run={pruned}", "sparsity=0.3", "pruning.force=true", "logger=csv", ok=False)
    assert "never goes back" in output
    call("prune.py", trained, f"run={pruned}", "sparsity=0.8", "pruning.force=true", "logger=csv")
    first, second = (read_bundle(folder / "bundle").array for folder in (pruned, runs(trained, "prune")[-1]))
    for name, layer in read_bundle(pruned / "bundle").manifest.sparsity.items():
        assert layer.zeros > 0
        assert bool((second(name)[first(name) == 0] == 0).all())
    # The bundle that train.py pruned itself goes further in the same way.
    call("prune.py", trained, f"run={parent}", "sparsity=0.8", "pruning.force=true", "logger=csv")
    first, second = (read_bundle(folder / "bundle").array for folder in (parent, runs(trained, "prune")[-1]))
    for name, layer in read_bundle(parent / "bundle").manifest.sparsity.items():
        assert layer.zeros > 0
        assert bool((second(name)[first(name) == 0] == 0).all())


@pytest.mark.slow
def test_an_adapter_next_to_the_pruned_base_travels_and_counts(trained):
    parent = runs(trained, "train")[0]
    call("prune.py", trained, f"run={parent}", "pruning.lora=prune_base_keep_adapter", "logger=csv")
    run = runs(trained, "prune")[-1]
    results, merged = (Results.load(folder / "abr/results.json") for folder in (run, parent))
    assert results.bundle["bytes"] > merged.bundle["bytes"]
    assert any("lora_A" in name for name in read_bundle(run / "bundle").tensors)
    call("evaluate.py", trained, f"run={run}", "data.test=5", "logger=csv")


def test_the_control_has_no_backbone(trained):
    parent = runs(trained, "train")[0]
    call(
        "prune.py",
        trained,
        f"run={parent}",
        "pruning=zero",
        "sparsity=1",
        "recovery=specialise",
        "recovery.steps=4",
        "logger=csv",
    )
    results = Results.load(runs(trained, "prune")[-1] / "abr/results.json")
    assert results.sparsity == 1
    assert results.bundle["zeros"] == results.bundle["weights"]


@pytest.mark.slow
def test_a_sweep_prunes_one_adaptation_many_times(trained):
    parent = runs(trained, "train")[0]
    call(
        "prune.py",
        trained,
        "-m",
        f"run={parent}",
        "sweep=sparsity",
        "sparsity=0.3,0.7",
        "logger=csv",
        "evaluation.plots=false",
    )
    swept = [Results.load(path) for path in sorted(trained.glob("logs/multirun/*/*/abr/results.json"))]
    assert {(r.sparsity, r.pruning["method"]) for r in swept} == {
        (sparsity, method) for sparsity in (0.3, 0.7) for method in ("wanda", "magnitude")
    }


def test_an_adapter_of_another_shape_is_refused(trained):
    parent = runs(trained, "train")[0]
    output = call("prune.py", trained, f"run={parent}", "adapter.rank=4", "logger=csv", ok=False)
    assert "adapter.rank=4: shapes an adaptation" in output
