"""Altered files of a run, and the functions of the package that read them: an attempt for each kind of file."""

from __future__ import annotations

import copy
import io
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from robustness.damages import WITH_RUN
from robustness.mutations import altered_text, altered_tree
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
from edgenetllm.edge.export import zeros_of_task
from edgenetllm.errors import UserError
from edgenetllm.models.stored import HASH, values_hash
from edgenetllm.pruning.oneshot import assert_zeros
from edgenetllm.report.layers import layers_markdown
from edgenetllm.report.placement import placement_table
from edgenetllm.report.results import Results
from edgenetllm.report.table import print_report, to_markdown
from edgenetllm.run_state import read_state
from edgenetllm.saved_config import read_config
from edgenetllm.stages.adaptation import adapted_in, read_facts, restore
from edgenetllm.sweeps.folder import read_sweep, same_sweeps, states
from edgenetllm.sweeps.summary import print_summary
from edgenetllm.trust import check_saved_choices

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


def damage_attempt(run: Path) -> Attempt:
    """Each damage of a copy of the run, met by what evaluate.py reads; the sentence must be the one that belongs to it."""
    composed = {**settings("experiment=debug"), "run": "somewhere"}
    del composed["specialise"]
    choices = {"task": "abr", "data": "synthetic", "pruning": "alps"}

    def attempt(number: int, place: Path) -> str | None:
        damage, sentence = list(WITH_RUN.values())[number]
        shutil.copytree(run, place / "run", ignore=shutil.ignore_patterns("wandb", "plots"))
        damage(place / "run")
        try:
            check_saved_choices(read_config(place / "run/choices.yaml"), str(place / "run/choices.yaml"))
            config = load_config(settings_of_run(place / "run", composed, choices, [], "evaluate"))
            results = Results.load(place / "run/abr/results.json")
            dense = restore(config, place / "run").dense.of_task("abr")
            layers: Any = (results.pruning or {})["layers"]
            assert_zeros(dense, zeros_of_task({name: {"zeros": 0} for name in layers}, ["abr"], "abr"))
        except UserError as error:
            if sentence not in str(error) or (place / "run/opened").exists():
                raise AssertionError(str(error)) from None
            raise
        return None

    return attempt


class _WithoutAliases(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True
