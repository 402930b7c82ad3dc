"""The commands in this process, with jobs of about a second."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edgenetllm.cli import main
from edgenetllm.stages.prune import prune
from edgenetllm.stages.train import train

STAGES = {"train": train, "prune": prune}
QUICK = [
    "experiment=debug", "callbacks.progress_bar=false", "trainer.threads=1", "trainer.warmup_steps=2", "experience.workers=1",
    "evaluation.plots=false", "evaluation.targets=[0.9]", "engine.latency_decisions=4", "budget.epochs=2",
    "budget.batches_per_epoch=3", "budget.episodes=8", "trainer.batch_size=4", "data.train=40", "data.val=4", "data.test=4",
]  # fmt: skip


def run(monkeypatch, folder: Path, stage: str, *words: str, cache: str = "cache") -> int:
    """Exit code of `python <stage>.py <words>` in `folder`."""
    paths = [f"paths.cache_dir={folder / cache}", f"paths.log_dir={folder / 'logs'}"]
    first = words[:1] if words[:1] == ("-m",) else ()  # argparse wants it before the words
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(sys, "argv", [f"{stage}.py", *first, *QUICK, *paths, *words[len(first) :]])
    try:
        main(stage, STAGES[stage])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def sweeps(folder: Path) -> list[Path]:
    return sorted((folder / "logs" / "multirun").glob("*"))


def jobs(sweep: Path) -> dict[str, dict[str, Any]]:
    """`run.json` by what was typed for the job, without the words that all jobs share."""
    facts = json.loads((sweep / "sweep.json").read_text())["jobs"]
    shared = set.intersection(*(set(words) for words in facts.values()))
    return {
        " ".join(word for word in words if word not in shared): {
            **json.loads((sweep / name / "run.json").read_text()),
            "folder": sweep / name,
        }
        for name, words in facts.items()
    }


def figures(job: Path) -> dict[str, Any]:
    """Everything measured by a job but times."""
    results = json.loads((job / "abr/results.json").read_text())
    return {key: results[key] for key in ("policies", "retention", "differences", "bundle")}
