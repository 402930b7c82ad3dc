"""The ranks that torchrun or srun started: rank zero runs the stage, the others wait until it says what to fit, fit, and end.

They speak through torch's key-value store, at the address at which the process group meets later. Keys and who sets them:

    check     rank zero    its configuration, and the name of files that every node has to see
    seen/3    rank 3       that it agrees, or its problem
    fit       rank zero    the folder of the run, and the threads of a rank
    ready/3   rank 3       that its model is built, or its problem
    go        rank zero    that all are ready to join the process group
    failed/3  rank 3       its problem during the fit
    end       rank zero    that no fit is needed any more, or that it failed
    left/3    rank 3       that it heard the end
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from torch.distributed.rendezvous import rendezvous

from edgenetllm.config import Config
from edgenetllm.errors import RankZeroEnded, UserError
from edgenetllm.interruption import is_interruption
from edgenetllm.launched import Launch

START_S = 300  # for all ranks to be there, and for each to answer
BUILD_S = 3600  # for a rank to build its model, perhaps from a slow disk
SEEN_S = 10  # for a file to be seen on another node
END_S = 10  # for the others to hear that it is over, and for them to hear why
POLL_S = 0.1

Problem = str | None


class Meeting:
    """The messages between the ranks of one command."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        address = f"tcp://{launch.address}:{launch.port}?rank={launch.rank}&world_size={launch.ranks}"
        try:
            self.store, _, _ = next(rendezvous(address, timeout=timedelta(seconds=START_S)))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self} found not all of the {launch.ranks} ranks in {START_S} s: {reason}") from None

    def __str__(self) -> str:
        return f"rank {self.launch.rank}"

    def say(self, key: str, **facts: Any) -> None:
        self.store.set(f"edgenetllm/{key}", json.dumps(facts))

    def hear(self, key: str) -> dict[str, Any] | None:
        """The facts that were said under `key`; None where nobody has yet. Raises RankZeroEnded where it cannot be asked."""
        try:
            if not self.store.check([f"edgenetllm/{key}"]):
                return None
            return dict(json.loads(self.store.get(f"edgenetllm/{key}")))
        except RuntimeError:  # the store was a part of rank zero, or of its torchrun
            raise RankZeroEnded(f"{self}: rank 0 has ended without a word") from None

    def wait_for(self, key: str) -> dict[str, Any] | None:
        """Wait, on another rank, for what rank zero says under `key`; None where it says instead that no fit is needed.

        Raises RankZeroEnded where it failed.
        """
        while (facts := self.hear(key)) is None:
            if (end := self.hear("end")) is not None:
                if end["problem"] is not None:
                    raise RankZeroEnded(f"{self}: rank 0 {end['problem']}")
                return None
            time.sleep(POLL_S)
        return facts

    def wait_for_all(self, key: str, seconds: float) -> dict[int, Problem]:
        """Wait, on rank zero, for the problem (or None) of each other rank. Raises UserError for one that is silent."""
        until = time.monotonic() + seconds
        problems: dict[int, Problem] = {}
        for rank in range(1, self.launch.ranks):
            while (answer := self.hear(f"{key}/{rank}")) is None:
                if time.monotonic() > until:
                    raise UserError(f"rank {rank} has not answered for {seconds:g} s: see its messages")
                time.sleep(POLL_S)
            problems[rank] = answer["problem"]
        return problems

    def answer(self, key: str, problem: Problem = None) -> None:
        """Answer, on another rank, to `wait_for_all` of rank zero."""
        self.say(f"{key}/{self.launch.rank}", problem=problem)

    def why(self, seconds: float) -> Problem:
        """The way in which rank zero ended, after an error on another rank; None where it goes on."""
        until = time.monotonic() + seconds
        while True:
            try:
                end = self.hear("end")
            except RankZeroEnded:
                return "has ended without a word"
            if end is not None:
                return str(end["problem"])
            if time.monotonic() > until:
                return None
            time.sleep(POLL_S)


@functools.cache
def meeting_of(launch: Launch) -> Meeting:
    """The meeting of this process, which is open until the process ends."""
    return Meeting(launch)


@contextmanager
def leading(launch: Launch | None) -> Iterator[Callable[[Config, str], None]]:
    """While open, this process is rank zero of what `launch` started, or the only one. At the end the others are let go.

    Gives a function of the configuration and its hash that raises UserError where another rank has a problem with it.
    """
    if launch is None or launch.ranks == 1:
        yield lambda config, digest: None
        return
    meeting = meeting_of(launch)
    problem: Problem = "failed, see its message"
    try:
        yield lambda config, digest: _agree(meeting, config, digest)
        problem = None
    except BaseException as error:
        problem = "was interrupted" if is_interruption(error) else problem
        raise
    finally:
        with suppress(RuntimeError):  # a torchrun that has ended already
            if problem is not None or meeting.hear("end") is None:
                meeting.say("end", problem=problem)
        with suppress(UserError, RankZeroEnded):
            meeting.wait_for_all("left", END_S if problem is None else 1)


def _agree(meeting: Meeting, config: Config, digest: str) -> None:
    """Check, before anything expensive, that all ranks have one configuration and their devices, and see the same folders."""
    folders = (config.paths.log_dir, config.paths.cache_dir)
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=folders[0], prefix=".ranks-") as file:
        twin = folders[1] / Path(file.name).name
        twin.touch()
        try:
            meeting.say("check", config=digest, file=twin.name)
            problems = [problem for problem in meeting.wait_for_all("seen", START_S).values() if problem is not None]
        finally:
            twin.unlink(missing_ok=True)
    if problems:
        raise UserError(*problems)


def sees(config: Config, name: str) -> Problem:
    """The first folder in which this rank does not see the file that rank zero has made there."""
    until = time.monotonic() + SEEN_S
    for option, folder in (("log_dir", config.paths.log_dir), ("cache_dir", config.paths.cache_dir)):
        while not (folder / name).is_file():
            if time.monotonic() > until:
                return (
                    f"does not see what rank 0 writes in {folder.absolute()} (paths.{option}): the nodes of a fit need a "
                    "file system that they share"
                )
            time.sleep(POLL_S)
    return None
