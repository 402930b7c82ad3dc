"""Altered checkpoints and parquet files of a run, and the functions of the package that read them."""

from __future__ import annotations

import copy
import io
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from robustness.mutations import altered_bytes, altered_numbers, altered_tree
from robustness.run_cases import Attempt

from edgenetllm.config import load_config
from edgenetllm.models.module import AdaptationModule, load_adaptation
from edgenetllm.models.stored import read_progress, seal_checkpoint
from edgenetllm.report.episodes import read_metrics, read_replay
from edgenetllm.report.results import Results
from edgenetllm.stages.fitting import build_module
from edgenetllm.tasks.abr.player.recorded import recording


def checkpoint_attempt(run: Path) -> Attempt:
    """`last.ckpt` of a run, its bytes altered, or its values and then sealed again; read to go on from, into the model."""
    data = (run / "checkpoints/last.ckpt").read_bytes()
    config = load_config(yaml.safe_load((run / "config.yaml").read_text()))
    module = build_module(config, {"abr": 1.0}, True)
    base = torch.load(io.BytesIO(data), weights_only=True)

    def attempt(number: int, place: Path) -> str | None:
        chance = random.Random(number)
        path = place / "last.ckpt"
        if chance.random() < 0.5:
            path.write_bytes(altered_bytes(data, chance))
        else:
            torch.save(_altered_checkpoint(base, chance), path)
        load_adaptation(module, str(path))
        assert _is_finite(module)
        read_progress(path)
        return None

    return attempt


def _altered_checkpoint(base: dict[str, Any], chance: random.Random) -> Any:
    """A copy with values replaced, or tensors by odd ones, sealed again where it can be."""
    tree = copy.deepcopy(base)
    if chance.random() < 0.5:
        tree = altered_tree(tree, chance)
    else:
        holder, name = chance.choice(list(_tensors(tree)))
        holder[name] = _odd_tensor(holder[name], chance)
    try:
        seal_checkpoint(tree)
    except Exception:  # it is no checkpoint any more
        return tree
    return tree


def _odd_tensor(tensor: torch.Tensor, chance: random.Random) -> Any:
    changed = tensor.clone()
    if changed.dim() and changed.is_floating_point():
        changed.view(-1)[chance.randrange(changed.numel())] = chance.choice([float("nan"), float("inf"), 1e30])
    return chance.choice(
        [
            changed,
            changed,
            tensor.reshape(-1)[:1].clone(),
            tensor.double(),
            torch.zeros(1).expand(10_000_000_000),
            torch.zeros(0),
            torch.zeros(3, 3).to_sparse(),
            torch.zeros(2, dtype=torch.complex64),
            torch.zeros(4, device="meta"),
            tensor.to(torch.float8_e4m3fn),
            {"not": "a tensor"},
        ]
    )


def _tensors(node: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        if isinstance(value, torch.Tensor):
            yield node, key
        else:
            yield from _tensors(value)


def _is_finite(module: AdaptationModule) -> bool:
    return all(bool(torch.isfinite(one).all()) for one in module.parameters())


def parquet_attempt(run: Path) -> Attempt:
    """`replay.parquet` or `metrics.parquet` of a run, its bytes or its values altered; what is accepted is finite."""
    metrics = list(Results.load(run / "abr/results.json").metrics.values())
    whole = pq.read_table(run / "abr/replay.parquet")
    bases = {"replay.parquet": whole.slice(0, 60), "metrics.parquet": pq.read_table(run / "abr/metrics.parquet")}
    stored = {name: _stored(table) for name, table in bases.items()}

    def attempt(number: int, place: Path) -> str | None:
        chance = random.Random(number)
        name = chance.choice(sorted(bases))
        way = chance.random()
        if way < 0.5:
            data = altered_bytes(stored[name], chance)
        elif way < 0.6:
            data = altered_numbers(stored[name], chance)
        else:
            data = _stored(_altered_table(bases[name], chance))
        (place / name).write_bytes(data)
        if name == "metrics.parquet":
            figures = read_metrics(place / name, metrics)
            assert all(
                math.isfinite(one) for metric in metrics for values in figures.of(metric).values() for one in values
            )
            return None
        table = read_replay(place / name)
        assert all(math.isfinite(one) for one in table["reward"].to_pylist())
        (place / "abr").mkdir()
        shutil.copy(place / name, place / "abr")
        recording(place, None, 2, 1.0)
        return None

    return attempt


def _altered_table(table: pa.Table, chance: random.Random) -> pa.Table:
    """A column with an odd value, of another type, twice or away; or rows away, twice or in another order."""
    number = chance.randrange(table.num_columns)
    name, column = table.column_names[number], table.column(number)
    way = chance.randrange(6)
    if way == 0:
        values = column.to_pylist()
        values[chance.randrange(len(values))] = chance.choice([None, float("nan"), float("inf"), 1e300, -1, 0])
        return table.set_column(number, name, _as_array(values, column))
    if way == 1:
        odd = chance.choice(["x", b"\xff", True, [1.0, 2.0], {"a": 1}, 10**18, None, 1.5, "\x1b[31m"])
        return table.set_column(number, name, pa.array([odd] * table.num_rows))
    if way == 2:
        return table.drop_columns([name])
    if way == 3:
        return table.append_column(chance.choice([name, "x", "<b>"]), column)
    if way == 4:
        rows = [chance.randrange(table.num_rows) for _ in range(chance.choice([0, 1, table.num_rows]))]
        return table.take(pa.array(rows, pa.int64()))
    return table.rename_columns([f"{one}x" if one == name else one for one in table.column_names])


def _as_array(values: list[Any], column: pa.ChunkedArray) -> pa.Array:
    try:
        return pa.array(values, column.type)
    except (pa.ArrowException, TypeError, OverflowError):
        return pa.array([None] * len(values), column.type)


def _stored(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
