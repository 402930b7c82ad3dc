"""The content of a run and a cache, in a form that is equal for equal results: without times, dates and places."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import torch

from edgenetllm.models.stored import values_hash

TIMES = re.compile(r"^(decision_ms|timings_s|seconds|seconds_by_step|started|peak_memory_mb)$")  # of the machine
PLACES = ("run", "adapted_in", "git", "versions", "notes")
TEMPORARY = re.compile(r"\.tmp$|\.part$|^dense-")
LEARNT = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")  # of a checkpoint


def results(run: Path) -> dict[str, Any]:
    """File -> content, of what a run leaves: checkpoints, bundle, facts, results and every decision."""
    found = {}
    for number, path in enumerate(_files(run)):
        name = path.relative_to(run).as_posix()
        if path.suffix == ".jsonl":  # named after the time
            name = f"{path.parent.name}/{number}"
        if (
            path.suffix in (".ckpt", ".safetensors", ".parquet", ".jsonl")
            or path.name
            in (
                "results.json",
                "manifest.json",
            )
            or path.name in ("adaptation.json", "run.json")
        ):
            found[name] = content(path)
    return found


def cached(cache: Path) -> dict[str, Any]:
    """File -> content, of everything in a cache but locks."""
    return {path.relative_to(cache).as_posix(): content(path) for path in _files(cache) if path.suffix != ".lock"}


def content(path: Path) -> Any:
    """The part of a file that is compared."""
    if path.suffix == ".ckpt":
        checkpoint = torch.load(path, weights_only=True)
        return values_hash({name: checkpoint[name] for name in LEARNT if name in checkpoint})
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: _digest(arrays[name]) for name in arrays.files if not TIMES.search(name)}
    if path.suffix == ".parquet":
        table = parquet.read_table(path, memory_map=False)
        kept = table.select([name for name in table.column_names if not TIMES.search(name)])
        return [kept.column_names, hashlib.sha256(repr(kept.to_pydict()).encode()).hexdigest()]
    if path.name == "run.json":
        return {
            name: value
            for name, value in json.loads(path.read_text()).items()
            if name in ("status", "objective", "done")
        }
    if path.name == "sha256.json" or path.suffix == ".sha256":  # of files that hold times
        return "a hash"
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [_without_times(json.loads(line)) for line in path.read_text().splitlines()]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def leftovers(*folders: Path) -> list[str]:
    """Temporary files and folders that nobody removed."""
    return [str(path) for folder in folders for path in folder.rglob("*") if TEMPORARY.search(path.name)]


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """The places at which two contents differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            line
            for key in sorted({*one, *other})
            for line in (
                differences(one[key], other[key], f"{where}/{key}")
                if key in one and key in other
                else [f"{where}/{key}: only in the {'first' if key in one else 'second'}"]
            )
        ]
    return [] if one == other else [f"{where}: {str(one)[:80]} != {str(other)[:80]}"]


def _files(folder: Path) -> Iterator[Path]:
    """Sorted, without what is only temporary."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(TEMPORARY.search(part) for part in parts):
            yield path


def _digest(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_times(one)
            for name, one in value.items()
            if not TIMES.search(name) and name not in PLACES and name != "sha256"
        }
    return [_without_times(one) for one in value] if isinstance(value, list) else value
