"""The one reader of runs, for the comparison page, the retention study and the seed table.

Every folder below some others that a run was started in is read, or left out with a reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenetllm.compare.run_facts import folder_name, main_metric, run_folder
from edgenetllm.errors import UserError
from edgenetllm.report.metrics_file import METRICS_FILE, read_metrics
from edgenetllm.report.results import RESULTS_FILE, Results, metric_key, results_folders
from edgenetllm.run import STATE_FILE

HYDRA_FOLDER = ".hydra"  # Hydra makes it before anything of ours runs
SAME = 1e-6  # relative: the two files of one run


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """A run with usable results of a task."""

    folder: Path  # of the results
    results: Results
    started: str | None  # UTC, ISO 8601; None: of an older version

    @property
    def name(self) -> str:
        return folder_name(self.folder)

    @property
    def age(self) -> tuple[bool, str, str, int, str]:
        """Sorts runs by their start; those of an older version, which come first, by the time in the folder's name."""
        run = run_folder(self.folder)
        numbered = run.name.isdigit()  # a job of a sweep
        name, number = (run.parent.name, int(run.name)) if numbered else (run.name, -1)
        return self.started is not None, self.started or "", name, number, str(self.folder)


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
        reasons = "".join(f"\n  {run.folder}: {run.reason}" for run in left_out[:10])
        more = f"\n  and {len(left_out) - 10} more" if len(left_out) > 10 else ""
        raise UserError(f"{searched}: no {RESULTS_FILE} of a finished run in it or below{reasons}{more}")
    return sorted(finished, key=lambda run: run.age), left_out


def read_run(folder: Path) -> FinishedRun:
    """Raises UserError when the results are unreadable, lack what is compared, or the run did not come to its end."""
    results = Results.load(folder / RESULTS_FILE)
    if not results.metrics:
        raise UserError(f"{folder}/{RESULTS_FILE}: metrics: there are none")
    key = metric_key(main_metric(results))
    missing = [name for name in ("dense", "sparse") if key not in results.policies.get(name, {})]
    if missing:
        raise UserError(f"{folder}/{RESULTS_FILE}: policies: no {main_metric(results).name} of {' and '.join(missing)}")
    state = _state(folder) or {"status": "finished"}
    if state["status"] != "finished":
        raise UserError(f"{folder}/{state['status']}, says {STATE_FILE}, though {RESULTS_FILE} is there")
    started = state.get("started")
    return FinishedRun(folder, results, None if started is None else str(started))


def play(run: FinishedRun) -> PlayedRun:
    """The main metric of each episode and policy. Raises UserError when the file is absent or says something else."""
    results, metric = run.results, main_metric(run.results)
    path = run.folder / METRICS_FILE
    stored = read_metrics(path, [metric])
    values = stored.of(metric)
    missing = {"dense", "sparse"} - set(values)
    if missing:
        raise UserError(f"{path}: {' and '.join(sorted(missing))} was not played")
    for policy, figures in values.items():
        estimate = results.policies.get(policy, {}).get(metric_key(metric))
        mean = float(figures.mean())
        if estimate is None or not math.isclose(mean, estimate.mean, rel_tol=SAME, abs_tol=1e-9):
            said = "nothing" if estimate is None else f"{estimate.mean:.9g}"
            raise UserError(
                f"{run.folder}: {metric.name} of {policy} is {mean:.9g} in {METRICS_FILE}, but {RESULTS_FILE} says {said}: "
                "the two files are not of the same run"
            )
    return PlayedRun(run.folder, results, run.started, stored.episodes, values)


def is_run(folder: Path) -> bool:
    """True where the folder itself is a run's, finished or not."""
    return (folder / RESULTS_FILE).is_file() or (folder / STATE_FILE).is_file()


def one_task_folder(run: Path) -> Path:
    """Where the results of a run of one task lie, or `run` itself where there are none.

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
    found = {path.parent.resolve(): path.parent for folder in folders for path in folder.rglob(mark)}
    return sorted(found.values())


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
    own = folder / STATE_FILE
    try:
        state = json.loads((own if own.is_file() else folder.parent / STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/{STATE_FILE}: not readable: {error}") from None
    if not isinstance(state, dict) or not isinstance(state.get("status"), str):
        raise UserError(f"{folder}/{STATE_FILE}: no status")
    return state
