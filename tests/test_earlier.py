"""Checkpoints, bundles and runs of earlier versions, in which what belongs to a task had no name of the task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small import ARCHITECTURES, make_task
from typed import call, runs

from edgenetllm.compare.__main__ import main as compare
from edgenetllm.compare.runs import find_runs, one_task_folder
from edgenetllm.compare.seeds import read
from edgenetllm.earlier import by_task, current_names
from edgenetllm.edge.bundle import MANIFEST, read_bundle
from edgenetllm.edge.bundle_writer import write_bundle
from edgenetllm.edge.engine import load_policy, load_whole_policy
from edgenetllm.edge.export import to_numpy, zeros_of_task
from edgenetllm.errors import UserError
from edgenetllm.models.decoder import build_decoder
from edgenetllm.models.module import AdaptationModule, load_adaptation
from edgenetllm.models.policy import build_policy
from edgenetllm.models.stored import HASH, read_checkpoint, seal_checkpoint, values_hash
from edgenetllm.report.results import RESULTS_FILE, Results, results_folders

OPTIONS = {"adapter_lr": 1e-3, "task_lr": 1e-3, "weight_decay": 0.0, "warmup_steps": 1, "total_steps": 2}
BACKBONE = {"name": "tiny", "hash": "0"}


def earlier_names(tensors: dict, prefix: str = "") -> dict:
    """The names that the tensors of a policy of one task, or of several, had."""
    several = (
        len({name.removeprefix(prefix).split(".")[1] for name in tensors if name.startswith(f"{prefix}tasks.")}) > 1
    )

    def earlier(name: str) -> str:
        own = name.removeprefix(prefix)
        if not own.startswith("tasks."):
            return name
        return f"{prefix}parts.{own.removeprefix('tasks.')}" if several else f"{prefix}{own.split('.', 2)[2]}"

    return {earlier(name): value for name, value in tensors.items()}


@pytest.fixture(params=[["abr"], ["abr", "other"]], ids=["one task", "several tasks"])
def policy_and_tasks(request):
    tasks = dict.fromkeys(request.param, make_task())
    torch.manual_seed(5)
    return build_policy(build_decoder(dict(ARCHITECTURES["llama"])), tasks, embedding_rms=0.5).eval(), tasks


def target_of(tasks) -> object:
    return 40.0 if len(tasks) == 1 else {name: 40.0 + number for number, name in enumerate(tasks)}


def to_numpy_all(policy):
    return {name: to_numpy(value) for name, value in policy.state_dict().items()}


def test_a_bundle_is_read_as_ever(policy_and_tasks, tmp_path):
    policy, tasks = policy_and_tasks
    tensors = earlier_names(to_numpy_all(policy))
    assert any(name.startswith("encoder." if len(tasks) == 1 else "parts.abr.encoder.") for name in tensors)
    manifest = {
        "task": "+".join(tasks),
        "model": policy.decoder.config.to_dict(),
        "metrics": {},
        "extra": {"target_return": target_of(tasks), "embedding_rms": 0.5, "adapter": None},
    }
    write_bundle(tmp_path / "b", sparse={}, dense=tensors, manifest=manifest)
    whole = load_whole_policy(tmp_path / "b", tasks)
    assert all(torch.equal(value, policy.state_dict()[name]) for name, value in whole.state_dict().items())
    for name in tasks:
        made = make_task()
        made.name = name
        loaded, target = load_policy(tmp_path / "b", made)
        assert target == by_task(target_of(tasks), tasks)[name]
        wanted = policy.of_task(name).state_dict()
        assert loaded.state_dict().keys() == wanted.keys()
        assert all(torch.equal(value, wanted[key]) for key, value in loaded.state_dict().items())


def test_a_bundle_with_a_tensor_too_many_is_refused_still(policy_and_tasks, tmp_path):
    policy, tasks = policy_and_tasks
    extra = {"target_return": target_of(tasks), "embedding_rms": 0.5, "adapter": None}
    facts = {"task": "+".join(tasks), "model": policy.decoder.config.to_dict(), "metrics": {}, "extra": extra}
    tensors = {**earlier_names(to_numpy_all(policy)), "more.weight": np.ones(2)}
    write_bundle(tmp_path / "b", sparse={}, dense=tensors, manifest=facts)
    with pytest.raises(UserError, match=r"does not fit task .*more\.weight"):
        load_policy(tmp_path / "b", tasks["abr"])


def test_a_checkpoint_is_read_as_ever(policy_and_tasks, tmp_path):
    policy, tasks = policy_and_tasks
    state = {f"policy.{name}": value for name, value in policy.state_dict().items()}
    stored = {
        "state_dict": earlier_names(state, "policy."),
        "backbone": BACKBONE,
        "target_return": target_of(tasks),
        "hyper_parameters": dict(OPTIONS),
    }
    seal_checkpoint(stored)
    torch.save(stored, tmp_path / "best.ckpt")

    def fresh():
        torch.manual_seed(6)
        return build_policy(build_decoder(dict(ARCHITECTURES["llama"])), tasks, embedding_rms=0.5)

    module = AdaptationModule.load_from_checkpoint(
        tmp_path / "best.ckpt", policy=fresh(), tasks=tasks, backbone=BACKBONE
    )
    assert module.target_returns == by_task(target_of(tasks), tasks)
    again = AdaptationModule(fresh(), tasks, backbone=BACKBONE, target_returns={}, **OPTIONS)
    load_adaptation(again, str(tmp_path / "best.ckpt"))
    resumed = AdaptationModule(fresh(), tasks, backbone=BACKBONE, target_returns={}, **OPTIONS)
    checkpoint = read_checkpoint(tmp_path / "best.ckpt")
    resumed.on_load_checkpoint(checkpoint)  # as a Trainer with ckpt_path does
    resumed.load_state_dict(checkpoint["state_dict"], strict=resumed.strict_loading)
    for loaded in (module, again, resumed):
        assert all(torch.equal(value, state[f"policy.{name}"]) for name, value in loaded.policy.state_dict().items())
    if len(tasks) > 1:
        with pytest.raises(UserError, match=r"its return-to-go .* is not that of abr"):
            AdaptationModule.load_from_checkpoint(
                tmp_path / "best.ckpt", policy=fresh(), tasks={"abr": tasks["abr"]}, backbone=BACKBONE
            )


def test_layers_that_were_pruned_are_known_by_their_present_names():
    layers = {"layers.0.mlp.up_proj": {"zeros": 1}, "head.out": {"zeros": 2}}
    assert zeros_of_task(layers, ["abr"], "abr") == {"decoder.layers.0.mlp.up_proj": 1, "tasks.abr.head.out": 2}
    both = {
        "layers.0.mlp.up_proj": {"zeros": 1},
        "parts.abr.head.out": {"zeros": 2},
        "parts.cjs.head.out": {"zeros": 3},
    }
    assert zeros_of_task(both, ["abr", "cjs"], "cjs") == {"decoder.layers.0.mlp.up_proj": 1, "tasks.cjs.head.out": 3}
    assert current_names({"tasks.abr.head.out": 1}, ["abr"]) == {"tasks.abr.head.out": 1}


def make_earlier(run: Path) -> None:
    """Turn the folder of a run of task=abr into what an earlier version left."""
    for path in sorted((run / "abr").iterdir()):
        path.rename(run / path.name)
    (run / "abr").rmdir()
    facts = json.loads((run / "adaptation.json").read_text())
    where = facts.pop("adapted_in")
    facts |= {key: facts[key]["abr"] for key in ("target_return", "tried")}
    del facts[HASH]
    (run / "adaptation.json").write_text(json.dumps({**facts, "adapted_in": where, HASH: values_hash(facts)}))
    path = run / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"] = earlier_names(checkpoint["state_dict"], "policy.")
    checkpoint["target_return"] = checkpoint["target_return"]["abr"]
    del checkpoint["hyper_parameters"]["task_weights"]
    seal_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    bundle = read_bundle(run / "bundle")
    sparse = {name for name, entry in bundle.manifest.tensors.items() if entry.kind == "sparse"}
    tensors = earlier_names(dict(bundle.tensors))  # type: ignore[arg-type]
    extra = {**bundle.manifest.extra, "target_return": bundle.manifest.extra["target_return"]["abr"]}
    del extra["networks"]
    write_bundle(
        run / "bundle",
        sparse={name: value for name, value in tensors.items() if name in sparse},
        dense={name: value for name, value in tensors.items() if name not in sparse},
        manifest={"task": "abr", "model": bundle.manifest.model, "metrics": bundle.manifest.metrics, "extra": extra},
        overwrite=True,
    )


@pytest.mark.slow
def test_a_run_is_read_as_ever(trained, tmp_path, capsys):
    """Evaluated, pruned, pruned further, drawn and compared with a run of today."""
    first = runs(trained, "train")[0]
    old = tmp_path / "logs" / "train" / first.name
    shutil.copytree(first, old, ignore=shutil.ignore_patterns("wandb"))
    shutil.copytree(trained / "cache", tmp_path / "cache")
    make_earlier(old)
    assert results_folders(old) == [old]
    assert not any(name.startswith("tasks.") for name in json.loads((old / "bundle" / MANIFEST).read_text())["tensors"])
    wanted = Results.load(old / RESULTS_FILE).policies

    call("evaluate.py", tmp_path, f"run={old}", "logger=csv")
    evaluated = runs(tmp_path, "evaluate")[0]
    assert Results.load(evaluated / "abr" / RESULTS_FILE).policies == wanted
    call("prune.py", tmp_path, f"run={old}", "sparsity=0.6", "logger=csv", "pruning.force=true")
    pruned = Results.load(runs(tmp_path, "prune")[0] / "abr" / RESULTS_FILE)
    assert (pruned.sparsity, pruned.policies["dense"]) == (0.6, wanted["dense"])
    facts = json.loads((runs(tmp_path, "prune")[0] / "adaptation.json").read_text())
    assert set(facts["target_return"]) == set(facts["tried"]) == {"abr"}

    (old / "table.md").unlink()
    (evaluated / "abr" / "table.md").unlink()
    capsys.readouterr()
    assert compare([str(old)]) == compare([str(evaluated)]) == 0
    assert capsys.readouterr().err == ""
    assert (old / "table.md").is_file()
    assert (evaluated / "abr" / "table.md").is_file()
    found, left_out = find_runs([tmp_path / "logs"])
    assert [run.name for run in found] == [old.name, evaluated.name, runs(tmp_path, "prune")[0].name]
    assert not left_out
    assert one_task_folder(old) == old
    assert [run.folder for run in read([evaluated])[0]] == [evaluated / "abr"]
