"""The end of each job of a sweep, read from its folder: a table, then each error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from edgenetllm.printable import say
from edgenetllm.report.placement import draw_placements
from edgenetllm.report.text import rich_text
from edgenetllm.sweeps.folder import read_sweep, states
from edgenetllm.sweeps.job import ERROR_FILE, is_done


def print_summary(folder: Path, console: Console | None = None) -> list[tuple[str, list[str]]]:
    """Returns folder name and overrides of each job that neither finished nor was stopped by a search."""
    console = console or Console()
    jobs = read_sweep(folder)["jobs"]
    table = Table(box=None, padding=(0, 1))
    for column in ("job", "what differs", "status", "objective"):
        table.add_column(column, overflow="fold", no_wrap=column == "job")
    failed = []
    differs = differing(list(jobs.values()))
    for (name, state), words in zip(states(folder).items(), differs, strict=True):
        status, objective = state["status"], state.get("objective")
        if status == "running":
            status = "still running" if is_alive(folder / name) else "died"
        table.add_row(
            rich_text(name), rich_text(words), rich_text(status), "" if objective is None else f"{objective:.4f}"
        )
        if not is_done(state) and status != "stopped":
            failed.append((name, jobs[name], state.get("error")))
    console.print(rich_text(f"{folder}: {len(jobs)} jobs"), style="italic", soft_wrap=True)
    print_whole(table, console)
    for name, _, error in failed:
        if error is None:  # the table says all
            continue
        path = folder / name / ERROR_FILE
        console.print(
            rich_text(f"{name}: {error}{f' ({path})' if path.is_file() else ''}"), style="red", soft_wrap=True
        )
    return [(name, words) for name, words, _ in failed]


def print_placements(folder: Path) -> None:
    """Draw and print the comparison of placements, where finished jobs of a sweep have any."""
    done = [folder / name for name, state in states(folder).items() if is_done(state)]
    for what, path in draw_placements(done, folder).items():
        if path.suffix == ".md":
            say(*path.read_text(encoding="utf-8").splitlines())
        say(f"{what}: {path}")


def print_whole(table: Table, console: Console) -> None:
    """Print a table: in a file as wide as it is, in a terminal folded to its width but for columns that must stay whole."""
    needed = console.measure(table, options=console.options.update(width=10_000))
    before = console.width
    console.width = max(before, needed.minimum) if console.is_terminal else needed.maximum
    console.print(table, crop=False)
    console.width = before


def is_alive(job: Path) -> bool:
    """True while a process works in the folder of a job."""
    if not (job / ".lock").exists():
        return False
    try:
        with FileLock(job / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def differing(overrides: Sequence[Sequence[str]]) -> list[str]:
    """The words of each job that not all jobs have."""
    shared = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
    return [" ".join(word for word in words if word not in shared) for words in overrides]
