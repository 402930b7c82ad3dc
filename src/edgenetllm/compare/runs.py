"""The one reader of runs, for the comparison page, the retention study and the seed table, and the facts that they state.

Every folder below some others that a run was started in is read, or left out with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError
from edgenetllm.report.episodes import METRICS_FILE, read_metrics
from edgenetllm.report.results import RESULTS_FILE, Results, results_folders
from edgenetllm.report.run_labels import Identity
from edgenetllm.report.text import percent
from edgenetllm.run_state import STATE_FILE, read_state

HYDRA_FOLDER = ".hydra"  # Hydra makes it before anything of ours runs
MEAN_TOLERANCE = 1e-6  # relative: the two files of one run


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run with usable results of a task."""

    folder: Path  # of the results
    results: Results
    identity: Identity  # what determines the results but the training seed
    started: str  # UTC, ISO 8601; empty: not known, and counts as the oldest

    @property
    def name(self) -> str:
        return folder_name(self.folder)


@dataclass(frozen=True, eq=False)
class PlayedRun(FinishedRun):
    """A finished run and the main metric of each test episode."""

    episodes: list[str]
    values: dict[str, npt.NDArray[np.float64]]  # policy -> (episodes,), without bounds


@dataclass(frozen=True)
class LeftOut:
    """A run that no figure can be taken from."""

    folder: Path
    reason: str
    began: bool = True  # False: a dry run, say


def find_runs(folders: Sequence[Path]) -> tuple[list[FinishedRun], list[LeftOut]]:
    """The finished runs below the folders, at any depth, oldest first; and the other runs.

    Raises UserError when one of the folders is not there, or when there is no finished run at all.
    """
    finished, left_out = [], []
    with_results = _folders_with(folders, RESULTS_FILE)
    known = {folder.resolve() for folder in with_results}
    others = {
        folder.resolve(): folder for mark in (STATE_FILE, HYDRA_FOLDER) for folder in _folders_with(folders, mark)
    }
    for folder in with_results:
        try:
            finished.append(read_run(folder))
        except UserError as error:
            left_out.append(LeftOut(folder, str(error).removeprefix(f"{folder}/")))
    known |= {folder.parent for folder in known if (folder.parent / STATE_FILE).is_file()}  # of its tasks
    left_out += [_unfinished(folder) for path, folder in others.items() if path not in known]
    if not finished:
        searched = ", ".join(map(str, folders))
        reasons = [f"  {run.folder}: {run.reason}" for run in left_out[:10]]
        reasons += [f"  and {len(left_out) - 10} more"] if len(left_out) > 10 else []
        raise UserError(f"{searched}: no {RESULTS_FILE} of a finished run in it or below", *reasons)
    return sorted(finished, key=lambda run: (run.started, str(run.folder))), left_out


def read_run(folder: Path) -> FinishedRun:
    """A run with its results. Raises UserError when these are unreadable or incomplete, or the run has not finished."""
    results = Results.load(folder / RESULTS_FILE)
    if results.replay is not None:
        raise UserError(
            f"{folder}/{RESULTS_FILE}: replay: played in a real player, on other terms than in the simulator"
        )
    if not results.metrics:
        raise UserError(f"{folder}/{RESULTS_FILE}: metrics: there are none")
    missing = [name for name in ("dense", "sparse") if results.key not in results.policies.get(name, {})]
    if missing:
        raise UserError(f"{folder}/{RESULTS_FILE}: policies: no {results.metric.name} of {' and '.join(missing)}")
    if results.identity is None:
        raise UserError(
            f"{folder}/{RESULTS_FILE}: no identity, so nothing says what the run can be compared with: its adaptation is of "
            "an older version; train again"
        )
    state = _state(folder) or {"status": "finished"}
    if state["status"] != "finished":
        raise UserError(f"{folder}/{state['status']}, says {STATE_FILE}, though {RESULTS_FILE} is there")
    return FinishedRun(folder, results, results.identity, str(state.get("started", "")))


def play(run: FinishedRun) -> PlayedRun:
    """The main metric of each episode and policy. Raises UserError when the file is absent or says something else."""
    results, metric = run.results, run.results.metric
    path = run.folder / METRICS_FILE
    stored = read_metrics(path, [metric])
    values = stored.of(metric)
    missing = {"dense", "sparse"} - set(values)
    if missing:
        raise UserError(f"{path}: {' and '.join(sorted(missing))} was not played")
    for policy, figures in values.items():
        estimate = results.policies.get(policy, {}).get(results.key)
        mean = float(figures.mean())
        if estimate is None or not math.isclose(mean, estimate.mean, rel_tol=MEAN_TOLERANCE, abs_tol=1e-9):
            said = "nothing" if estimate is None else f"{estimate.mean:.9g}"
            raise UserError(
                f"{run.folder}: {metric.name} of {policy} is {mean:.9g} in {METRICS_FILE}, but {RESULTS_FILE} says {said}: "
                "the two files are not of the same run"
            )
    return PlayedRun(run.folder, results, run.identity, run.started, stored.episodes, values)


def is_run(folder: Path) -> bool:
    """True where the folder itself is a run's, finished or not."""
    return (folder / RESULTS_FILE).is_file() or (folder / STATE_FILE).is_file()


def one_task_folder(run: Path) -> Path:
    """The folder of the results of a run of one task, or `run` itself where there are none.

    Raises UserError for a run of several tasks.
    """
    folders = results_folders(run) if (run / STATE_FILE).is_file() else []
    if len(folders) > 1:
        named = " or ".join(map(str, folders))
        raise UserError(f"{run} is a run of several tasks: name the results of one of them, {named}")
    return folders[0] if folders else run


def _folders_with(folders: Sequence[Path], mark: str) -> list[Path]:
    """The folders that hold `mark`, at any depth, each once, by name. Raises UserError for a folder that is not there."""
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder")
    folder_by_place = {path.parent.resolve(): path.parent for folder in folders for path in folder.rglob(mark)}
    return sorted(folder_by_place.values())


def _unfinished(folder: Path) -> LeftOut:
    try:
        state = _state(folder)
    except UserError as error:
        return LeftOut(folder, str(error).removeprefix(f"{folder}/"))
    if state is None:
        return LeftOut(folder, f"never began: no {STATE_FILE} (a dry run, or an error in the configuration)", False)
    status = state["status"]
    if status == "running":
        return LeftOut(folder, "unfinished: still running, or ended without notice")
    return LeftOut(
        folder, f"{status}, says {STATE_FILE}" if status != "finished" else f"finished, but {RESULTS_FILE} is gone"
    )


def _state(folder: Path) -> dict[str, Any] | None:
    """None without run.json; of the results of a task, that of the run around them. Raises UserError for a damaged one."""
    return read_state(folder if (folder / STATE_FILE).is_file() else folder.parent) or None


def run_folder(folder: Path) -> Path:
    """The folder of the run whose results lie in `folder`: the one around it, unless it is the run's own."""
    is_of_task = not (folder / STATE_FILE).is_file() and (folder.parent / STATE_FILE).is_file()
    return folder.parent if is_of_task else folder


def folder_name(folder: Path) -> str:
    """The run's folder without what lies above it, for results of one of several tasks with the folder of the task.

    A job of a sweep may have a number only, so the sweep's folder is named too.
    """
    run = run_folder(folder)
    name = f"{run.parent.name}/{run.name}" if run.name.isdigit() else run.name
    return f"{name}/{folder.name}" if run != folder and len(results_folders(run)) > 1 else name


CONTROL = "100 % sparse"


def named(method: str | None, recovery: str | None, variant: str = "", sparsity: float = 1.0) -> str:
    """`wanda + specialise (pruning.windows=8) at 40 %`; the control, at 100 %, has no method."""
    name = f"{method or CONTROL}{f' + {recovery}' if recovery else ''}{f' ({variant})' if variant else ''}"
    return name if sparsity == 1 else f"{name} at {percent(sparsity)}"


def cell_of(results: Results) -> tuple[str | None, str | None, float]:
    """Method, recovery and sparsity, as tables name them: None for a dense model, at 100 % sparsity, and without recovery."""
    sparsity = round(results.sparsity, 6)
    method, recovery = _label(results.pruning), _label(results.recovery)
    return None if sparsity in (0, 1) else method, None if recovery == "none" else recovery, sparsity


def is_pruned(results: Results) -> bool:
    """True where the sparse model of the run is another one than the dense model."""
    method, _, sparsity = cell_of(results)
    return method is not None or sparsity == 1


def describe_cell(results: Results) -> str:
    """`wanda + specialise at 40 %`."""
    method, recovery, sparsity = cell_of(results)
    return named(method if method or sparsity == 1 else "dense", recovery, sparsity=sparsity)


def bundle_values(results: Results) -> str | None:
    """The type in which the bundle stores its non-zeros: fp32, fp16, bf16, int8."""
    values = (results.bundle or {}).get("values")
    return None if values is None else str(values)


def bundle_number(results: Results, key: str) -> float | None:
    """A figure of the bundle; None where the results do not have it."""
    value = (results.bundle or {}).get(key)
    return float(value) if isinstance(value, int | float) else None


def _label(entry: Mapping[str, Any] | None) -> str | None:
    """The label of a pruning or recovery, or the name of its method without one."""
    label = (entry or {}).get("label") or (entry or {}).get("method")
    return None if label is None else str(label)
