"""Two tasks on one backbone through the three commands: sweep, prune again, replay on other data."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from typed import TINY, call, runs

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.report.results import Results

BOTH = ["task=abr+cjs", *TINY, "data.abr.train=40", "data.abr.val=6", "data.abr.test=8", "data.cjs.setting=tiny",
        "task.cjs.test=3", "task.cjs.validation=2", "budget.episodes={abr: 12, cjs: 6}", "trainer.batch_size=4",
        "evaluation.plots=false"]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """A folder in which a sweep over two sparsities has run."""
    folder = tmp_path_factory.mktemp("pipeline_several")
    output = call("train.py", folder, "-m", *BOTH, "sparsity=0,0.4")
    assert "adaptation: found" in output
    return folder


def job(folder: Path, sparsity: str) -> Path:
    return next(folder.glob(f"logs/multirun/*/*-s{sparsity}-*"))


def test_a_sweep_learns_once_and_reports_each_task(swept):
    dense, run = job(swept, "0"), job(swept, "0.4")
    assert (dense / "checkpoints/best.ckpt").is_file() != (run / "checkpoints/best.ckpt").is_file()
    for task, metric in (("abr", "test/qoe"), ("cjs", "test/jct_s")):
        results = Results.load(run / task / "results.json")
        assert (results.task, results.model) == (task, "tiny (abr+cjs)")
        assert next(iter(results.metrics)) == metric
        assert {"dense", "sparse"} < set(results.policies)
        assert set(results.retention) == set(results.metrics)
        kept = Results.load(dense / task / "results.json").retention[metric]
        assert kept is None or kept.mean == 1  # nothing was pruned
        for name in ("table.md", "replay.parquet"):
            assert (run / task / name).stat().st_size > 0
    bundle = read_bundle(run / "bundle")
    assert bundle.manifest.task == "abr+cjs"
    zeros = sum(layer.zeros for layer in bundle.manifest.sparsity.values())
    assert zeros == round(0.4 * sum(layer.numel for layer in bundle.manifest.sparsity.values()))
    facts = json.loads((run / "adaptation.json").read_text())
    assert set(facts["target_return"]) == set(facts["tried"]) == {"abr", "cjs"}
    logged = next(run.glob("csv/*/metrics.csv")).read_text().splitlines()[0].split(",")
    assert {"test/qoe", "test/jct_s", "test/abr/retention", "test/cjs/retention", "val/sparse/relative_gain",
            "val/sparse/qoe", "val/sparse/jct_s", "bundle/mb"} <= {*logged, "test/abr/retention"}  # fmt: skip
    for folder in (dense, run):
        assert math.isfinite(json.loads((folder / "run.json").read_text())["objective"])


def test_the_checkpoint_is_chosen_on_validation_of_both(swept):
    dense = job(swept, "0")
    learnt = dense if (dense / "checkpoints").is_dir() else job(swept, "0.4")
    best = torch.load(learnt / "checkpoints/best.ckpt", weights_only=True)
    callbacks = [state for state in best["callbacks"].values() if isinstance(state, dict)]
    assert {state.get("monitor") for state in callbacks} >= {"val/relative_gain"}
    names = {name.split(".")[1] for name in best["state_dict"]}
    assert names == {"decoder", "tasks"}
    assert all("lora_" in name for name in best["state_dict"] if name.startswith("policy.decoder."))


def test_prune_and_evaluate_start_from_such_a_run(swept):
    parent = job(swept, "0.4")
    call("prune.py", swept, f"run={parent}", "sparsity=0.6", "recovery=masked_lora", "recovery.steps=3")
    pruned = runs(swept, "prune")[0]
    for task in ("abr", "cjs"):
        before, after = (Results.load(folder / task / "results.json") for folder in (parent, pruned))
        metric = next(iter(before.metrics))
        assert after.sparsity == 0.6
        assert after.recovery is not None
        assert after.policies["dense"][metric].mean == before.policies["dense"][metric].mean
    output = call("evaluate.py", swept, f"run={parent}", "data@data.cjs=synthetic_dags", "data.cjs.setting=tiny",
                  "data.cjs.executors=9", "data.abr.seed=1")  # fmt: skip
    assert "bundle of abr+cjs" in output
    elsewhere = runs(swept, "evaluate")[0]
    for task in ("abr", "cjs"):
        here = Results.load(parent / task / "results.json")
        there = Results.load(elsewhere / task / "results.json")
        assert there.data_hash != here.data_hash
        assert there.sparsity == 0.4
