"""Small forecasting tasks: generated viewers, and a CSV file of a wave."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgenetllm.tasks.forecast.data.datasets import CsvFiles
from edgenetllm.tasks.forecast.task import SeriesTask
from edgenetllm.tasks.vp.data.datasets import Synthetic
from edgenetllm.tasks.vp.task import VpTask


def viewers(cache: Path = Path("cache"), horizon: int = 20, history: int = 10, **options: object) -> VpTask:
    data = Synthetic(
        name="synthetic_viewers", history=history, horizon=horizon, train_step=5, test_step=15, seed=1, seconds=40,
        train=6, val=2, test=3,
    )  # fmt: skip
    return VpTask(**{"name": "vp", "data": data, "cache_dir": cache, "history": 10, "answer_rows": 20, **options})  # type: ignore[arg-type]


def write_wave(path: Path, rows: int = 300, header: str = "time_s,mbps,delay_ms") -> Path:
    time = np.arange(rows)
    mbps = 5 + 2 * np.sin(time / 9) + 0.1 * np.cos(3.3 * time)
    lines = [f"{t},{x:.5f},{40 - 3 * x:.5f}" for t, x in zip(time, mbps, strict=True)]
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def series(path: Path, **options: object) -> SeriesTask:
    data = {"inputs": ["mbps", "delay_ms"], "answers": ["mbps"], "history": 8, "horizon": 4, **options}
    own = {key: data.pop(key) for key in ("patch", "answer_rows", "noise") if key in data}
    files = CsvFiles(name="csv", path=path, **data)  # type: ignore[arg-type]
    return SeriesTask(
        **{"name": "forecast", "data": files, "cache_dir": path.parent, "history": 8, "answer_rows": 4, **own}  # type: ignore[arg-type]
    )
