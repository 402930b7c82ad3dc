"""One job of a sweep: what became of it is in its folder, and its failure takes no other job with it."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Callable

from filelock import FileLock, Timeout
from lightning.fabric.utilities.rank_zero import rank_zero_only

from edgenetllm.errors import StoppedEarly, UserError
from edgenetllm.files import write_atomic
from edgenetllm.printable import printable, say
from edgenetllm.run import Run
from edgenetllm.tracking.tracking import first_line

ERROR_FILE = "error.txt"  # the whole traceback


def run_job(run: Run, work: Callable[[], float | None]) -> float | None:
    """The objective that `work()` returns, also kept in `run.json`; None for a job that failed or was stopped.

    A job that has finished is not run again: its objective is returned.
    """
    try:
        state = run.state()
        if is_done(state) and state.get("config_hash") == run.config_hash:
            say(f"{run.folder.name}: done before")
            return state.get("objective")
        return run_alone(run, work)
    except Exception as error:
        _record(run, error)
        return None


def run_alone(run: Run, work: Callable[[], float | None]) -> float | None:
    """Run a job that is resumed by itself, as `run_job`, but whatever became of it before, and raise its error."""
    try:
        objective = work()
    except StoppedEarly as reason:
        run.note(status="stopped", objective=reason.value)
        say(f"{run.folder.name}: stopped: {reason}")
        return None
    return finish(run, objective)


def finish(run: Run, objective: float | None) -> float | None:
    """Record that a job has nothing left to do. Returns the objective, None where it is no number."""
    (run.folder / ERROR_FILE).unlink(missing_ok=True)  # of an attempt before
    if objective is not None and not math.isfinite(objective):
        say(f"{run.folder.name}: its objective is {objective}, which no search can use", file=sys.stderr)
        objective = None
    run.note(status="finished", objective=objective, done=True)
    return objective


def is_done(state: dict[str, object]) -> bool:
    """True where a job of this state has nothing left to do; `done` comes last, after the objective is known."""
    return state.get("status") == "finished" and state.get("done") is True


def _record(run: Run, error: Exception) -> None:
    """Write the failure to the job's folder, unless another process works in it."""
    if getattr(rank_zero_only, "rank", 0) != 0:
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    say(f"{run.folder.name}: failed: {first_line(error)} (all of it: {run.folder / ERROR_FILE})", file=sys.stderr)
    try:
        with FileLock(run.folder / ".lock", timeout=0):
            run.note(status="failed", error=first_line(error))
            write_atomic(run.folder / ERROR_FILE, printable(traceback.format_exc()).encode())
    except (Timeout, OSError, UserError):  # another process has it, the disk is full, or its state is damaged
        return
