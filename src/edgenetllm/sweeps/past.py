"""How long the steps of a job will take, judged by past runs: their `timings_s` in results.json."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from edgenetllm.report.results import RESULTS_FILE, results_folders
from edgenetllm.run import CONFIG_FILE

# Step -> settings that a past run must share; and those whose product the step's time grows with.
LIKE = {
    "improvement": ("task.name", "data.name", "data.setting", "experience.improvement"),
    "pool": ("task.name", "data.name", "data.setting", "experience.name"),
    "adaptation": ("task.name", "model", "adapter", "trainer.accelerator", "trainer.precision"),
    "pruning": ("task.name", "model", "pruning.method", "pruning.calibration"),
    "recovery": ("task.name", "model", "recovery"),
    "replay": ("task.name", "data.name", "data.setting", "model"),
}
GROWS = {
    "pool": ("budget.episodes",),
    "adaptation": ("budget.epochs", "budget.batches_per_epoch", "trainer.batch_size"),
    "pruning": ("pruning.windows",),
}


@dataclass(frozen=True)
class Past:
    """A step of a finished run."""

    step: str
    like: str
    seconds_per_unit: float


def past_steps(logs: Path) -> list[Past]:
    """Every step of the finished runs and jobs under `logs`; adaptations only where they were learnt, not found."""
    return [
        Past(step, _like(step, settings), seconds / _size(step, settings))
        for folder in _finished(logs)
        for settings in [OmegaConf.to_container(OmegaConf.load(folder / CONFIG_FILE))]
        for step, seconds in _timings(folder).items()
        if isinstance(settings, dict)
    ]


def seconds_of(step: str, settings: dict[str, Any], past: Sequence[Past]) -> float | None:
    """As long as the slowest past step of this kind, for faster ones found a part of it done; None: there is none."""
    times = [one.seconds_per_unit for one in past if one.step == step and one.like == _like(step, settings)]
    return max(times) * _size(step, settings) if times else None


def _finished(logs: Path) -> Iterator[Path]:
    for pattern in (f"*/*/{CONFIG_FILE}", f"*/*/*/{CONFIG_FILE}"):
        yield from (path.parent for path in sorted(logs.glob(pattern)) if results_folders(path.parent))


def _timings(folder: Path) -> dict[str, float]:
    of_tasks = [json.loads((of_task / RESULTS_FILE).read_text()) for of_task in results_folders(folder)]
    results = of_tasks[0]
    timings = {step: float(seconds) for step, seconds in results.get("timings_s", {}).items() if step in LIKE}
    if "replay" in timings:  # the other steps were taken once, for all tasks
        timings["replay"] = sum(float(one["timings_s"]["replay"]) for one in of_tasks)
    if (recovery := results.get("recovery") or {}).get("seconds"):
        timings["recovery"] = float(recovery["seconds"])
    if not (folder / "checkpoints").is_dir():
        timings.pop("adaptation", None)
    return timings


def _like(step: str, settings: dict[Any, Any]) -> str:
    return json.dumps([_at(settings, key) for key in LIKE[step]], sort_keys=True, default=str)


def _size(step: str, settings: dict[Any, Any]) -> float:
    return max(1.0, math.prod(_number(_at(settings, key)) for key in GROWS.get(step, ())))


def _number(value: Any) -> float:
    """Of several tasks their sum."""
    return float(sum(value.values()) if isinstance(value, dict) else value or 1)


def _at(settings: dict[Any, Any], key: str) -> Any:
    node: Any = settings
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node
