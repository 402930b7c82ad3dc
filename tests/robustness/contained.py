"""Hostile cases in a child process, watched: their exceptions, CPU time, memory, and what they open or connect to."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import sysconfig
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from edgenetllm.errors import UserError

NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
STARTS = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "pickle.find_class")
Case = TypeVar("Case")
ACCEPTED, REFUSED = "accepted", "refused"
BESIDES = ("foreign", "slow", "large", "unclear")  # faults of a case that is counted by its end already


@dataclass(frozen=True)
class Limits:
    """The limits of a case: seconds of CPU, megabytes above the process's, and seconds of silence before it is killed.

    The seconds are those of a free machine; tests that run side by side slow each other down.
    """

    seconds: float = 2.0
    megabytes: float = 500.0
    silence: float = 30.0

    @property
    def most_seconds(self) -> float:
        return self.seconds * (3 if "PYTEST_XDIST_WORKER" in os.environ else 1)


@dataclass
class Tally:
    """How the cases of a campaign ended, and the first faults of each kind; `str` is the line that is printed."""

    name: str
    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    largest: float = 0.0

    @property
    def tried(self) -> int:
        return sum(count for end, count in self.ends.items() if end not in BESIDES)

    def __str__(self) -> str:
        ends = ", ".join(f"{count:,} {end}" for end, count in sorted(self.ends.items()))
        return (
            f"{self.name}: {self.tried:,} cases: {ends}; slowest {self.slowest:.2f} s of CPU, "
            f"largest {self.largest:.0f} MB"
        )


def campaign(
    name: str,
    numbers: Iterable[int],
    attempt: Callable[[int, Path], str | None],
    limits: Limits = Limits(),
    allowed: Iterable[Path | str] = (),
) -> Tally:
    """Run `attempt(number, empty folder)` for every number in a forked child, which is started again after a crash.

    An attempt returns (accepted, or a word of its own for an end that is counted) or raises UserError (refused). Any other
    exception, a message of several lines or with control characters, a limit passed, a process or connection started, or a
    file opened outside of its folder, of `allowed` and of what Python is installed in, is a fault.
    """
    tally, waiting = Tally(name), list(numbers)
    roots = _roots(allowed)
    while waiting:
        with tempfile.TemporaryDirectory() as folder:
            done = _watched(waiting, attempt, limits, [*roots, os.path.realpath(folder)], Path(folder), tally)
        waiting = waiting[done:]
    print(tally, file=sys.stderr)
    return tally


def check(tally: Tally) -> None:
    """Fail unless every case was accepted or refused within its limits."""
    assert not tally.faults, f"{tally}\n" + "\n".join(tally.faults[:20])


def directed(
    name: str, cases: Mapping[str, Case], attempt: Callable[[Case, Path], object], end: str, limits: Limits = Limits()
) -> None:
    """A campaign of named cases, all of which have to end as `end` says, within their limits."""
    names = list(cases)

    def numbered(number: int, folder: Path) -> str:
        attempt(cases[names[number]], folder)
        return ACCEPTED if end == ACCEPTED else f"{ACCEPTED}: {names[number]}"

    tally = campaign(name, range(len(names)), numbered, limits)
    check(tally)
    assert tally.ends == {end: len(names)}, tally


def _watched(
    numbers: list[int],
    attempt: Callable[[int, Path], str | None],
    limits: Limits,
    roots: list[str],
    folder: Path,
    tally: Tally,
) -> int:
    """Run the cases in one child until all are done or one has killed it; returns how many have ended."""
    context = get_context("fork")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(numbers, attempt, limits, roots, folder, writer), daemon=True)
    child.start()
    writer.close()
    done = 0
    while done < len(numbers):
        if not reader.poll(limits.silence):
            os.kill(child.pid or 0, signal.SIGKILL)
            _count(tally, "killed", f"case {numbers[done]}: silent for {limits.silence:.0f} s")
            done += 1
            break
        try:
            end, faults, seconds, megabytes = reader.recv()
        except EOFError:
            child.join()
            _count(tally, "killed", f"case {numbers[done]}: the process ended with {child.exitcode}")
            done += 1
            break
        done += 1
        tally.slowest, tally.largest = max(tally.slowest, seconds), max(tally.largest, megabytes)
        tally.ends[end] += 1
        for kind, text in faults:
            if kind != end:
                tally.ends[kind] += 1
            tally.faults.append(f"case {numbers[done - 1]}: {kind}: {text}")
    child.join()
    return done


def _count(tally: Tally, end: str, text: str) -> None:
    tally.ends[end] += 1
    tally.faults.append(text)


def _child(
    numbers: list[int],
    attempt: Callable[[int, Path], str | None],
    limits: Limits,
    roots: list[str],
    folder: Path,
    writer: Connection,
) -> None:
    """The child: each case in an empty folder, its end sent to the parent."""
    watch = _Watch(roots)
    sys.addaudithook(watch)
    for number in numbers:
        place = folder / "case"
        place.mkdir()
        before, started = _reset_peak(), time.process_time()
        watch.seen = []
        watch.on = True
        end, faults = _end_of(attempt, number, place)
        watch.on = False
        seconds, megabytes = time.process_time() - started, _peak() - before
        faults += [("foreign", event) for event in watch.seen]
        if seconds > limits.most_seconds:
            faults.append(("slow", f"{seconds:.1f} s"))
        if megabytes > limits.megabytes:
            faults.append(("large", f"{megabytes:.0f} MB"))
        shutil.rmtree(place)
        writer.send((end, faults, seconds, megabytes))
    writer.close()
    os._exit(0)


def _end_of(attempt: Callable[[int, Path], str | None], number: int, place: Path) -> tuple[str, list[tuple[str, str]]]:
    try:
        return attempt(number, place) or ACCEPTED, []
    except UserError as error:
        text = str(error)
        if re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text) or text.count("\n") > 0 or len(text) > 1500:
            return REFUSED, [("unclear", repr(text[:300]))]
        return REFUSED, []
    except BaseException as error:
        frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
        return "exception", [("exception", f"{error!r:.200} at {frame.f_code.co_filename}:{line}")]


class _Watch:
    """The audit hook: what a case opens, connects to and starts, other than what it may."""

    def __init__(self, roots: list[str]) -> None:
        self.roots = tuple(roots)
        self.on = False
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in NETWORK or event in STARTS:
            self.seen.append(f"{event} {args!r:.100}")
        elif event == "open" and isinstance(args[0], str | bytes):
            name, creates = os.fsdecode(args[0]), bool(args[2] & os.O_CREAT)
            if not os.path.isabs(name) and not creates and not os.path.lexists(name):
                return  # relative to a folder that is open already, which the event does not name
            path = os.path.realpath(name)
            if not path.startswith(self.roots):
                self.seen.append(f"open {path}")


def _roots(allowed: Iterable[Path | str]) -> list[str]:
    """Folders that may be opened: those given, and what Python and its packages are installed in."""
    installed = [
        sys.prefix,
        sys.base_prefix,
        *sysconfig.get_paths().values(),
        "/proc",
        "/sys",
        "/usr/lib",
        "/etc/localtime",
    ]
    project = Path(__file__).parents[2]  # its source, and the tests, whose lines a warning shows
    return [os.path.realpath(path) for path in [*installed, project, "/dev/null", "/dev/urandom", *allowed]]


def _reset_peak() -> float:
    """Set the peak of the resident memory back to what is resident, and return that in megabytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"/proc/self/status has no {name}")
