"""A study of the language model varies which weights learn, and from how many episodes; no more and no less changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small import make_task
from test_config import settings

from edgenetllm.cli import main
from edgenetllm.config import load_config
from edgenetllm.edge.bundle import read_bundle
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import pool_folder
from edgenetllm.models.policy import build_policy
from edgenetllm.report.results import Results
from edgenetllm.stages.adaptation import restore, wanted_adaptation
from edgenetllm.stages.evaluate import evaluate
from edgenetllm.stages.fitting import build_module
from edgenetllm.stages.identity import expert_hash
from edgenetllm.stages.pool import collect_pools
from edgenetllm.stages.prune import prune
from edgenetllm.stages.train import train

STAGES = {"train": train, "prune": prune, "evaluate": evaluate}
QUICK = [
    "callbacks.progress_bar=false", "trainer.threads=1", "trainer.warmup_steps=2", "experience.workers=1", "logger=csv",
    "evaluation.plots=false", "evaluation.bounds=false", "evaluation.targets=[0.9]", "engine.latency_decisions=4",
    "budget.epochs=2", "budget.batches_per_epoch=3", "budget.episodes=8", "trainer.batch_size=4", "data.train=40",
    "data.val=4", "data.test=4",
]  # fmt: skip


def run(monkeypatch, folder: Path, stage: str, *words: str) -> Path:
    """The folder of the run of `python <stage>.py <words>`."""
    monkeypatch.chdir(folder)
    paths = [f"paths.cache_dir={folder}/cache", f"paths.log_dir={folder}/logs"]
    monkeypatch.setattr(sys, "argv", [f"{stage}.py", *words, *QUICK, *paths])
    before = set((folder / "logs").glob(f"{stage}/*"))
    main(stage, STAGES[stage])
    (new,) = set((folder / "logs").glob(f"{stage}/*")) - before
    assert json.loads((new / "run.json").read_text())["status"] == "finished"
    return new


@pytest.mark.slow
def test_a_small_transformer_learns_whole_from_a_fraction_of_the_pool(monkeypatch, tmp_path):
    """Trained, pruned, pruned again from its checkpoint, evaluated: the stages know all of its weights."""
    small = [
        "budget=debug",
        "ablation=small",
        "model.settings.hidden_size=32",
        "model.settings.intermediate_size=64",
        "export.values=fp16",
        "pruning=wanda",  # leaves what it keeps as it was
    ]
    parent = run(monkeypatch, tmp_path, "train", *small, "experience.fraction=0.3", "seed=5")
    stored = torch.load(parent / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    config = load_config(yaml.safe_load((parent / "config.yaml").read_text()))
    fresh = build_module(config, {"abr": 0.0}, in_bf16=False).policy.decoder
    changed = {name: bool((stored[f"policy.decoder.{name}"] != p).any()) for name, p in fresh.named_parameters()}
    assert all(changed.values())
    assert len(collect_pools(config)["abr"].valid) == 2  # of eight episodes, in batches of four
    dense, bundle = restore(config, parent).dense, read_bundle(parent / "bundle")
    assert not any(p.requires_grad for p in dense.decoder.parameters())
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(tensor, stored.get(f"policy.{name}", tensor), atol=0, rtol=0)
        shipped = torch.from_numpy(bundle.array(name))
        kept = shipped != 0 if name in bundle.manifest.sparsity else ...
        torch.testing.assert_close(shipped[kept], tensor[kept], atol=1e-3, rtol=1e-2)
    pruned = Results.load(run(monkeypatch, tmp_path, "prune", f"run={parent}", "sparsity=0.6") / "abr/results.json")
    layers = pruned.pruning["layers"].values()
    assert sum(row["zeros"] for row in layers) == round(0.6 * sum(row["weights"] for row in layers))
    assert pruned.policies["dense"] == Results.load(parent / "abr/results.json").policies["dense"]
    assert pruned.model == "small_transformer on 30% of the pool"
    again = Results.load(run(monkeypatch, tmp_path, "evaluate", f"run={parent}") / "abr/results.json")
    assert again.policies == Results.load(parent / "abr/results.json").policies


def stores(*words: str) -> tuple[Path, Path]:
    """The folders of the adaptation of this configuration, and of its pool."""
    chosen = settings("experiment=debug", "data.train=20", "data.val=4", "data.test=4", *words)
    config = load_config(chosen)
    own = config.tasks["abr"]
    pool = pool_folder(own.task, own.experience.shares, own.pool_seed, Path("pools"))
    return wanted_adaptation(config).store, pool


def test_a_fraction_makes_another_adaptation_of_the_same_pool():
    whole, part = stores(), stores("experience.fraction=0.01")
    assert whole[0] != part[0]
    assert whole[1] == part[1]
    videos = stores("task.train_videos=[generated]")
    assert videos[0] != whole[0]
    assert videos[1] != whole[1]


@pytest.mark.slow
def test_runs_with_different_seeds_may_share_a_pool_and_what_made_it():
    def made(*words: str) -> tuple[Path, Path, str]:
        chosen = settings("experiment=debug", "data.train=20", "experience=expert", *words)
        return *stores("data.train=20", *words), expert_hash(load_config(chosen).tasks["abr"])

    one, two, shared = made("seed=1"), made("seed=2"), made("seed=2", "experience.seed=1")
    assert len({one[0], two[0], shared[0]}) == 3
    assert one[1:] == shared[1:]
    assert not set(one) & set(two)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.5])
def test_a_fraction_is_above_zero_and_at_most_one(fraction):
    with pytest.raises(UserError, match=rf"experience\.fraction={fraction}"):
        load_config(settings(f"experience.fraction={fraction}"))


def test_an_ablation_shapes_a_new_run(monkeypatch, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings()))
    (tmp_path / "choices.yaml").write_text("{}")
    monkeypatch.setattr(sys, "argv", ["prune.py", f"run={tmp_path}", "ablation=small"])
    with pytest.raises(SystemExit) as end:
        main("prune", prune)
    assert end.value.code == 2
    assert "ablation= shapes a new run" in capsys.readouterr().err


@pytest.mark.model
@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("weights", ["random", "zero"])
def test_the_controls_of_smollm2_learn_where_anything_can(smollm2_folder, weights, adapter):
    """Every trained tensor gets a gradient, with random weights. Zeroed blocks pass their input on and stay as they are."""
    words = [f"model.weights={weights}", "model.layers=1", f"adapter={adapter}", "model=smollm2"]
    config = load_config(settings(*words, f"paths.cache_dir={smollm2_folder.parent}"))
    task = make_task()
    backbone = config.model.load()
    config.adapter.attach(backbone.decoder, 0)
    policy = build_policy(backbone.decoder, {task.name: task}, backbone.embedding_rms)
    observation = {
        name: torch.as_tensor(value) for name, value in task.environment("train").reset(torch.arange(2).numpy()).items()
    }
    batch = {name: (v.float() if v.is_floating_point() else v)[:, None] for name, v in observation.items()}
    for _ in range(2):  # LoRA's A learns after its B
        hidden = policy.hidden(batch, torch.ones(2, 1), torch.zeros(2, 1, dtype=torch.long))
        policy.zero_grad()
        policy.head.loss(
            hidden, batch, torch.ones(2, 1, dtype=torch.long), None, torch.ones(2, 1, dtype=torch.bool)
        ).backward()
        with torch.no_grad():
            for p in policy.parameters():
                if p.grad is not None:
                    p -= 0.1 * p.grad
    inside = {name: p for name, p in policy.decoder.named_parameters() if p.requires_grad and p.ndim == 2}
    moved = {name for name, p in inside.items() if p.grad is not None and bool((p.grad != 0).any())}
    assert moved == (set(inside) if weights == "random" else set())
