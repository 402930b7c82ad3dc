"""Altered files of a run, and the functions of the package that read them: an attempt for each kind of file."""

from __future__ import annotations

import copy
import io
import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from rich.console import Console
from robustness.mutations import altered_bytes, altered_numbers, altered_text, altered_tree
from test_config import settings

from edgenetllm.compare.page import page
from edgenetllm.compare.page_tables import group_table, run_table
from edgenetllm.compare.retention import study_markdown
from edgenetllm.compare.runs import read_run
from edgenetllm.compare.sections import make_sections
from edgenetllm.compare.series import Palette, make_series
from edgenetllm.compare.study import Study
from edgenetllm.composition import saved_settings, settings_of_run
from edgenetllm.config import load_config
from edgenetllm.errors import UserError
from edgenetllm.models.module import AdaptationModule, load_adaptation
from edgenetllm.models.stored import HASH, read_progress, seal_checkpoint, values_hash
from edgenetllm.report.episodes import read_metrics, read_replay
from edgenetllm.report.layers import layers_markdown
from edgenetllm.report.placement import placement_table
from edgenetllm.report.results import Results
from edgenetllm.report.table import print_report, to_markdown
from edgenetllm.run_state import read_state
from edgenetllm.stages.adaptation import adapted_in, read_facts
from edgenetllm.stages.fitting import build_module
from edgenetllm.sweeps.folder import read_sweep, same_sweeps, states
from edgenetllm.sweeps.summary import print_summary
from edgenetllm.tasks.abr.player.recorded import recording

Attempt = Callable[[int, Path], str | None]

ESTIMATE = {"mean": 1.0, "ci95": [0.5, 1.5], "n": 12}
SHARE = {"mean": 0.9, "ci95": [0.8, 1.0]}
FIT = {"steps": 40, "seconds": 3.5, "validation": [0.5, 0.75]}
LATENCY = {"median": 1.5, "p99": 2.5, "n": 40}
DOMAIN = {
    "data": "norway",
    "metric": "QoE",
    "before": ESTIMATE,
    "after": ESTIMATE,
    "difference": ESTIMATE,
    "control": ESTIMATE,
}
EVERY_FACT: dict[str, Any] = {  # of results, that a small training run has not
    "recovery": {"method": "masked_lora", "label": "m", "trained_parameters": 100, "seconds": 2.5, "peak_memory_mb": 7},
    "specialisation": {
        **FIT, "train": ["encoder", "head"], "scratch": False, "trained_parameters": 100, "episodes": 8, "decisions": 300,
        "best_step": 20, "peak_memory_mb": 7, "cached_activations": True, "bytes_up": 0, "experience_bytes": 9,
        "bytes_down": 8, "bytes_down_tensors": 7, "bytes_down_compressed": 6, "bundle_bytes": 50, "control": FIT,
        "cloud": {"seconds": 9.0, "time_fraction": 0.5, "bytes_fraction": 0.25, "bundle_bytes": 60},
        "domains": {"new": {**DOMAIN, "cloud": ESTIMATE, "of_cloud": SHARE, "of_cloud_gain": None}, "old": DOMAIN},
    },
    "guarded": {"fallback": "bba", "decisions": 90, "events": {"raised": 3}, "deadline_ms": 5.0, "guard": True,
                "faults": {"kind": "raised", "rate": 0.1}},
    "placement": {"name": "split", "edge_ms": 0.5, "cloud_ms": 2.0, "traces": "norway", "trace_count": 3, "loss": 0.1,
                  "rows": {"bba": {"rtt_ms": 4.0, "latency_ms": LATENCY, "up_bytes": 9.0, "down_bytes": 8.0, "asked": 1.0}}},
    "replay": None,
    "notes": ["a note on the data"],
}  # fmt: skip
SWEEP = {"stage": "train", "identity": "0123456789abcdef", "arguments": ["seed=1,2"],
         "jobs": {"abr-tiny-seed1": ["seed=1"], "abr-tiny-seed2": ["seed=2"]}}  # fmt: skip


CELL = {"method": "wanda", "recovery": "none", "sparsity": 0.4, "seeds": [1, 2], "metric": ESTIMATE, "retention": SHARE}
STUDY: dict[str, Any] = {
    "schema": 1, "task": "abr", "model": "tiny", "data": "synthetic", "episodes": 12, "cells": [CELL],
    "metric": {"name": "qoe", "label": "QoE", "unit": "", "higher_is_better": True},
    "controls": [{**CELL, "method": None, "sparsity": 1.0, "retention": None}],
    "references": [{"name": "dense", "seeds": [1, 2], "metric": ESTIMATE}, {"name": "bba", "seeds": [], "metric": ESTIMATE}],
    "runs": [{"folder": "a", "stage": "train", "seed": 1, "method": "wanda", "recovery": None, "sparsity": 0.4}],
    "notes": ["a note"],
}  # fmt: skip


def json_attempt(run: Path) -> Attempt:
    """One of the JSON files of a run or sweep, altered as text or as a tree (then sealed again), and all that reads it."""
    facts = json.loads((run / "abr/results.json").read_text())
    results = {**facts, **EVERY_FACT, "policies": {**facts["policies"]}}
    bases: dict[str, Any] = {
        "run.json": json.loads((run / "run.json").read_text()),
        "adaptation.json": json.loads((run / "adaptation.json").read_text()),
        "results.json": results,
        "sweep.json": SWEEP,
        "study.json": STUDY,
    }
    readers = {
        "run.json": _read_run_state,
        "adaptation.json": _read_facts,
        "results.json": _read_results,
        "sweep.json": _read_sweep,
        "study.json": _read_study,
    }

    def attempt(number: int, place: Path) -> str | None:
        chance = random.Random(number)
        name = chance.choice((*bases, "results.json"))
        if chance.random() < 0.6:
            tree = altered_tree(bases[name], chance)
            if name == "adaptation.json" and isinstance(tree, dict):
                tree[HASH] = values_hash({key: value for key, value in tree.items() if key not in ("adapted_in", HASH)})
            data = json.dumps(tree).encode()
        else:
            data = altered_text(json.dumps(bases[name], indent=2).encode(), chance)
        (place / name).write_bytes(data)
        readers[name](place, chance.random() < 0.01)
        return None

    return attempt


def _read_run_state(place: Path, _: bool) -> None:
    state = read_state(place)
    assert state["status"] in ("running", "finished", "failed", "interrupted", "stopped")
    assert math.isfinite(state.get("objective") or 0.0)


def _read_facts(place: Path, _: bool) -> None:
    facts = read_facts(place)
    targets = facts["target_return"]
    assert all(math.isfinite(one) for one in (targets.values() if isinstance(targets, dict) else [targets]))
    adapted_in(place)


def _read_results(place: Path, also_the_page: bool) -> None:
    results = Results.load(place / "results.json")
    for text in (to_markdown(results), layers_markdown(results)):
        assert not set(text) & {"<", "\x1b"}
    console = Console(file=io.StringIO(), width=150)
    print_report(results, {"table": place / "table.md"}, console)
    assert "\x1b[2J" not in console.file.getvalue()  # type: ignore[attr-defined]
    if results.placement is not None and {"dense", "sparse"} <= set(results.policies):
        placement_table([results])
    (place / "run.json").write_text('{"status": "finished"}')
    sections = make_sections([read_run(place)])
    series = make_series(sections[0].groups, Palette(sections[0].groups))
    group_table(sections[0], series)
    run_table(sections[0], place / "page.html")
    if also_the_page:
        page(sections, [], place / "page.html")


def _read_study(place: Path, _: bool) -> None:
    text = study_markdown(Study.load(place / "study.json"))
    assert not set(text) & {"<", "\x1b"}


def _read_sweep(place: Path, _: bool) -> None:
    read_sweep(place)
    states(place)
    print_summary(place, Console(file=io.StringIO(), width=150))
    list(same_sweeps("train", ["seed=1,2"], place.parent))


def yaml_attempt(run: Path) -> Attempt:
    """The configuration or the choices of a run, altered, as every command with `run=` reads them."""
    bases = {name: (run / name).read_bytes() for name in ("config.yaml", "choices.yaml")}
    composed = {**settings("experiment=debug"), "run": "somewhere"}
    choices = {"task": "abr", "data": "synthetic", "pruning": "alps"}
    composed["specialise"] = None
    del composed["specialise"]

    def attempt(number: int, place: Path) -> str | None:
        chance = random.Random(number)
        for name, data in bases.items():
            (place / name).write_bytes(data)
        name = chance.choice(("config.yaml", "config.yaml", "choices.yaml"))
        if chance.random() < 0.6:
            tree = altered_tree(yaml.safe_load(bases[name]), chance)
            data = yaml.dump(tree, Dumper=_WithoutAliases, sort_keys=False).encode("utf-8", "surrogatepass")
        else:
            data = altered_text(bases[name], chance)
        (place / name).write_bytes(data)
        stage = chance.choice(("evaluate", "prune"))
        saved_settings(place, composed)
        try:
            load_config(settings_of_run(place, copy.deepcopy(composed), choices, [], stage))
        except UserError as error:  # a line for each option to correct
            raise UserError(chance.choice(error.args)) from None
        return None

    return attempt


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


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


def refused(read: Callable[[], object]) -> str:
    """The sentence with which something is refused; it must be."""
    try:
        read()
    except UserError as error:
        return str(error)
    raise AssertionError("it was accepted")
