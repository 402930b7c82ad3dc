"""The runs of a comparison page: every folder below some others that a run was started in, read or left out with a reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenetllm.errors import UserError
from edgenetllm.reporting.results import RESULTS_FILE, Results, metric_key
from edgenetllm.reporting.retention_runs import main_metric, run_folders
from edgenetllm.run import STATE_FILE

HYDRA_FOLDER = ".hydra"  # Hydra makes it before anything of ours runs


@dataclass(frozen=True)
class LeftOut:
    """A run that no figure can be taken from."""

    folder: Path
    reason: str


def find_runs(folders: Sequence[Path]) -> tuple[dict[Path, Results], list[LeftOut]]:
    """Folder -> results of the finished runs below the folders, at any depth, oldest first; and the other runs.

    Raises UserError when one of the folders is not there, or when there is no finished run at all.
    """
    finished: dict[Path, Results] = {}
    left_out = []
    with_results = run_folders(folders, RESULTS_FILE)
    known = {folder.resolve() for folder in with_results}
    others = {folder.resolve(): folder for mark in (STATE_FILE, HYDRA_FOLDER) for folder in run_folders(folders, mark)}
    for folder in with_results:
        try:
            finished[folder] = _read(folder)
        except UserError as error:
            left_out.append(LeftOut(folder, str(error).removeprefix(f"{folder}/")))
    known |= {folder.parent for folder in known if (folder.parent / STATE_FILE).is_file()}  # its parts are there
    left_out += [LeftOut(folder, _unfinished(folder)) for path, folder in others.items() if path not in known]
    if not finished:
        searched = ", ".join(map(str, folders))
        reasons = "".join(f"\n  {run.folder}: {run.reason}" for run in left_out[:10])
        more = f"\n  and {len(left_out) - 10} more" if len(left_out) > 10 else ""
        raise UserError(f"{searched}: no {RESULTS_FILE} of a finished run in it or below{reasons}{more}")
    return finished, left_out


def is_run(folder: Path) -> bool:
    """Whether the folder itself is a run's, finished or not."""
    return (folder / RESULTS_FILE).is_file() or (folder / STATE_FILE).is_file()


def part_folders(folder: Path) -> list[Path]:
    """Of a run of several tasks, the folders with the results of each; of any other folder, none."""
    if not (folder / STATE_FILE).is_file():
        return []
    return sorted(path.parent for path in folder.glob(f"*/{RESULTS_FILE}"))


def _read(folder: Path) -> Results:
    """Raises UserError when the results are unreadable, lack what is compared, or the run did not come to its end."""
    results = Results.load(folder / RESULTS_FILE)
    if not results.metrics:
        raise UserError(f"{RESULTS_FILE}: metrics: there are none")
    missing = [
        name for name in ("dense", "sparse") if metric_key(main_metric(results)) not in results.policies.get(name, {})
    ]
    if missing:
        raise UserError(f"{RESULTS_FILE}: policies: no {main_metric(results).name} of {' and '.join(missing)}")
    status = _status(folder)
    if status not in (None, "finished"):
        raise UserError(f"{status}, says {STATE_FILE}, though {RESULTS_FILE} is there")
    return results


def _unfinished(folder: Path) -> str:
    try:
        status = _status(folder)
    except UserError as error:
        return str(error)
    if status is None:
        return f"never began: no {STATE_FILE} (a dry run, or an error in the configuration)"
    if status == "running":
        return "unfinished: still running, or ended without notice"
    return f"{status}, says {STATE_FILE}" if status != "finished" else f"finished, but {RESULTS_FILE} is gone"


def _status(folder: Path) -> str | None:
    """None without run.json; of a part of a run of several tasks, that of the run. Raises UserError for a damaged one."""
    own = folder / STATE_FILE
    try:
        state = json.loads((own if own.is_file() else folder.parent / STATE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{STATE_FILE}: not readable: {error}") from None
    status = state.get("status") if isinstance(state, dict) else None
    if not isinstance(status, str):
        raise UserError(f"{STATE_FILE}: no status")
    return status
