"""experience=expert from end to end: an expert is made, learnt from, kept with the adaptation and replayed with it."""

from __future__ import annotations

import sys

import pytest

from edgenetllm.cli import main
from edgenetllm.report.results import Results
from edgenetllm.stages.evaluate import evaluate
from edgenetllm.stages.train import train

QUICK = [
    "experiment=debug", "experience=expert", "budget.episodes=8", "callbacks.progress_bar=false", "trainer.threads=1",
    "experience.workers=1", "logger=csv", "evaluation.plots=false", "evaluation.bounds=false", "trainer.batch_size=4",
    "engine.latency_decisions=4",
]  # fmt: skip
IMPROVED = {
    "abr": (["data.train=40", "data.val=4", "data.test=4"],
            {"members": 2, "clone_episodes": 10, "clone_epochs": 1, "iterations": 2, "episodes": 4, "horizon": 3}),
    "cjs": (["data.setting=tiny", "task.test=4"],
            {"start": "tuned", "generations": 2, "population": 4, "jobs": 40, "validation_jobs": 40}),
}  # fmt: skip


@pytest.mark.parametrize("task", ["abr", "cjs"])
@pytest.mark.slow
def test_an_expert_is_learnt_from_and_evaluated_too(monkeypatch, tmp_path, task):
    data, options = IMPROVED[task]
    words = [f"task={task}", *QUICK, *data, *(f"experience.expert.{task}.{k}={v}" for k, v in options.items())]
    paths = [f"paths.cache_dir={tmp_path}/cache", f"paths.log_dir={tmp_path}/logs"]

    def run(stage, *typed):
        monkeypatch.setattr(sys, "argv", [f"{stage.__name__}.py", *typed, *paths])
        main(stage.__name__, stage)
        return max((tmp_path / "logs" / stage.__name__).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)

    first = run(train, *words)
    results = Results.load(first / task / "results.json")
    assert {"expert", "dense", "sparse"} <= set(results.policies)
    assert len(list((tmp_path / "cache" / "experts").glob(f"{task}-*/curve.json"))) == 1
    assert not list((tmp_path / "cache" / "experts").glob("*.unfinished*"))
    again = Results.load(
        run(train, *words, "sparsity=0.6") / task / "results.json"
    )  # the same adaptation, from the store
    assert again.policies["expert"] == results.policies["expert"]
    assert len(list((tmp_path / "cache" / "adaptations").glob(f"{task}-*/expert/{task}.safetensors"))) == 1
    elsewhere = Results.load(run(evaluate, f"run={first}", f"{data[-1].split('=')[0]}=3") / task / "results.json")
    assert elsewhere.policies["expert"][next(iter(results.metrics))].n == 3
