"""The other ranks of a fit: processes of their own, which live as long as the fit and do nothing else.

Lightning would start the whole command again for each rank, `-m` and all, which then collects pools, opens loggers and
prunes; here a rank is given the folder of the run, reads the configuration that lies there, fits, and ends. Rank zero starts
them, unless torchrun or srun has (`meeting.py`).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed

from edgenetllm.errors import RankZeroEnded, StoppedEarly, UserError
from edgenetllm.launched import launched
from edgenetllm.stages.meeting import BUILD_S, Meeting, meeting_of

PATIENCE_S = 60  # for ranks to end after the fit
END_S = 10  # for ranks that were asked to end
READY = b"ready"
RANK_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS")
Children = list[tuple[subprocess.Popen[bytes], int]]


@contextmanager
def spawn_ranks(folder: Path, devices: int, threads: int) -> Iterator[Callable[[], None]]:
    """While open, this process is rank zero of a fit of the run in `folder`, with the other ranks that it wants.

    These are its children, `devices` with itself, or what torchrun or srun started. Each computes with `threads` torch
    threads. Gives a function that waits until all of them have built their model: who waits inside the rendezvous of torch
    instead waits for a rank that has died as for one that is slow. Raises RuntimeError when another rank fails.
    """
    launch = launched()
    if launch is not None and launch.ranks > 1:
        with _of_a_rank(launch.variables, threads), _led(meeting_of(launch), folder, threads) as wait_for_ranks:
            yield wait_for_ranks
    elif devices == 1:
        yield lambda: None
    else:
        port = str(find_free_network_port())
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "OMP_NUM_THREADS": str(threads)}
        with _of_a_rank({**shared, "LOCAL_RANK": "0"}, threads), _children(folder, devices) as wait_for_ranks:
            yield wait_for_ranks


def release_ranks() -> None:
    """Let ranks that torchrun or srun started end: the adaptation is there, and nothing is to be fitted."""
    launch = launched()
    if launch is not None and launch.ranks > 1:
        meeting_of(launch).say("end", problem=None)


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """While open, the environment has these values; then those from before, also of RANK_VARIABLES, which Lightning sets."""
    before = {key: os.environ.get(key) for key in {*RANK_VARIABLES, *values}}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value


@contextmanager
def _of_a_rank(values: Mapping[str, str], threads: int) -> Iterator[None]:
    """The environment and the threads of a rank, and afterwards no process group."""
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    with variables(values):
        try:
            yield
        finally:
            if distributed.is_initialized():
                distributed.destroy_process_group()
            torch.set_num_threads(threads_before)


@contextmanager
def _led(meeting: Meeting, folder: Path, threads: int) -> Iterator[Callable[[], None]]:
    """The ranks that torchrun or srun started fit the run in `folder`."""
    meeting.say("fit", folder=str(folder.absolute()), threads=threads)
    try:
        yield lambda: _let_join(meeting)
    except (UserError, StoppedEarly):
        raise
    except Exception as error:
        for rank in range(1, meeting.launch.ranks):
            with suppress(RankZeroEnded):
                if (failed := meeting.hear(f"failed/{rank}")) is not None:
                    raise RuntimeError(f"rank {rank} of the fit failed: {failed['problem']}") from error
        raise


def _let_join(meeting: Meeting) -> None:
    """Wait until all are ready, and let them join the process group. Raises RuntimeError where one is not."""
    for rank, problem in meeting.wait_for_all("ready", BUILD_S).items():
        if problem is not None:
            raise RuntimeError(f"rank {rank} of the fit ended before it began: {problem}")
    meeting.say("go")


@contextmanager
def _children(folder: Path, devices: int) -> Iterator[Callable[[], None]]:
    """The other ranks are children that fit the run in `folder`, and end with it."""
    children = [_start(folder, rank) for rank in range(1, devices)]
    try:
        yield lambda: _wait(children)
        for child, _ in children:
            child.wait(PATIENCE_S)
    except (UserError, StoppedEarly):
        raise
    except Exception as error:
        failed = [rank for rank, (child, _) in enumerate(children, 1) if _has_failed(child)]
        if failed:
            raise RuntimeError(f"rank {failed[0]} of the fit failed, see its message above") from error
        raise
    finally:
        for child, pipe in children:
            child.terminate()
            os.close(pipe)
        for child, _ in children:
            _reap(child)


def _start(folder: Path, rank: int) -> tuple[subprocess.Popen[bytes], int]:
    """A child, and the pipe by which it says that it is ready; in a session of its own, as Ctrl-C is for rank zero."""
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "edgenetllm.stages.rank", str(folder), str(writing)],
        env={**os.environ, "LOCAL_RANK": str(rank)},
        pass_fds=[writing],
        start_new_session=True,
    )
    os.close(writing)
    return child, reading


def _wait(children: Children) -> None:
    for rank, (child, pipe) in enumerate(children, 1):
        if os.read(pipe, len(READY)) != READY:  # the end of the pipe: the child has ended
            child.wait(PATIENCE_S)
            raise RuntimeError(f"rank {rank} of the fit ended before it began")


def _reap(child: subprocess.Popen[bytes]) -> None:
    """No rank outlives the fit, whatever it waits for."""
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _has_failed(child: subprocess.Popen[bytes]) -> bool:
    try:
        return child.wait(1) != 0  # one that was killed may still be ending
    except subprocess.TimeoutExpired:
        return False
