"""One job of a sweep: skipped if it was done before, and kept from taking the others with it if it fails."""

from __future__ import annotations

import gc
import json
import math
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from edgenetllm.errors import StoppedEarly
from edgenetllm.files import write_atomic
from edgenetllm.reporting.tracking import first_line
from edgenetllm.run import STATE_FILE, Run

ERROR_FILE = "error.txt"


def run_job(run: Run, logs: Path, resume: bool, work: Callable[[], float | None]) -> float | None:
    """What `work()` returns, or what it returned in an earlier run of this configuration under `logs` with `resume`.

    An exception is written to `error.txt` and `run.json` of the job's folder and becomes NaN: the sweep goes on, a search
    counts a failed trial, and the report at the end lists it.
    """
    done = finished_run(run, logs) if resume else None
    if done is not None:
        print(f"{run.folder.name}: done before ({done}), skipped", flush=True)
        if done.resolve() != run.folder.resolve():
            run.note(status="finished", done_in=str(done.resolve()), objective=objective_of(done))
        return objective_of(done)
    try:
        value = work()
    except StoppedEarly as reason:
        run.note(status="stopped", error=str(reason))
        print(f"{run.folder.name}: stopped: {reason}", flush=True)
        return math.nan
    except Exception as error:
        write_atomic(run.folder / ERROR_FILE, traceback.format_exc().encode())
        run.note(status="failed", error=first_line(error))
        print(
            f"{run.folder.name}: failed: {first_line(error)} (all of it in {run.folder / ERROR_FILE})", file=sys.stderr
        )
        return math.nan
    finally:
        leave_nothing_behind()
    (run.folder / ERROR_FILE).unlink(missing_ok=True)  # of an attempt before
    run.note(error=None, objective=value)
    return value


def finished_run(run: Run, logs: Path) -> Path | None:
    """The folder of a finished run of the same stage and configuration: this job's own one first, then the newest."""
    found = [folder for folder, state in runs_under(logs) if _same(run, state) and "done_in" not in state]
    own = [run.folder] if _same(run, run.state()) else []
    return next(iter([*own, *sorted(found, reverse=True)]), None)


def runs_under(logs: Path) -> Iterator[tuple[Path, dict]]:
    """Folder and state of every run in `<logs>/<stage>/` and of every job in `<logs>/multirun/<sweep>/`."""
    for pattern in (f"*/*/{STATE_FILE}", f"*/*/*/{STATE_FILE}"):
        for path in logs.glob(pattern):
            try:
                yield path.parent, json.loads(path.read_text())
            except (OSError, ValueError):
                continue  # being written, or not ours


def objective_of(folder: Path) -> float | None:
    value = json.loads((folder / STATE_FILE).read_text()).get("objective")
    return None if value is None else float(value)


def leave_nothing_behind() -> None:
    """Free what this job held, as the next one of the sweep may run in the same process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _same(run: Run, state: dict) -> bool:
    wanted = {"status": "finished", "stage": run.stage, "config_hash": run.config_hash}
    return all(state.get(key) == value for key, value in wanted.items())
