"""The other ranks of a fit: processes of their own, which live as long as the fit and do nothing else.

Lightning would start the whole command again for each rank, `-m` and all, which then collects pools, opens loggers and
prunes; here a rank is told the folder of the run, reads the configuration that lies there, fits, and ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed

from edgenetllm.errors import StoppedEarly, UserError

PATIENCE_S = 60  # for ranks to end after the fit
END_S = 10  # for ranks that were asked to end
READY = b"ready"
OF_A_RANK = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS")


@contextmanager
def ranks(folder: Path, devices: int, threads: int) -> Iterator[Callable[[], None]]:
    """While open, this process is rank zero of `devices`; the others are children that fit the run in `folder`.

    Each computes with `threads` torch threads. Gives a function that waits until all of them have built their model: who
    waits inside the rendezvous of torch instead waits for a rank that has died as for one that is slow. Raises RuntimeError
    when a child fails.
    """
    if devices == 1:
        yield lambda: None
        return
    before, threads_before = {key: os.environ.get(key) for key in OF_A_RANK}, torch.get_num_threads()
    port = str(find_free_network_port())
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "OMP_NUM_THREADS": str(threads)}
    os.environ.update(shared, LOCAL_RANK="0")
    torch.set_num_threads(threads)
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
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
        torch.set_num_threads(threads_before)


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


def _wait(children: list[tuple[subprocess.Popen[bytes], int]]) -> None:
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
