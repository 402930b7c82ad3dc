"""The other ranks of a fit: processes of their own, which live as long as the fit and do nothing else.

Lightning would start the whole command again for each rank, `-m` and all, which then collects pools, opens loggers and
prunes; here a rank is told the folder of the run, reads the configuration that lies there, fits, and ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch import distributed

from edgenetllm.errors import UserError

PATIENCE_S = 60  # for ranks to end after the fit
OF_A_RANK = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS")


@contextmanager
def ranks(folder: Path, devices: int, threads: int) -> Iterator[None]:
    """While open, this process is rank zero of `devices`, the others being children that fit the run in `folder`.

    Each computes with `threads` torch threads. Raises RuntimeError when one of the children fails.
    """
    if devices == 1:
        yield
        return
    before, threads_before = {key: os.environ.get(key) for key in OF_A_RANK}, torch.get_num_threads()
    port = str(find_free_network_port())
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "edgenetllm.stages.rank", str(folder)]
    children = [  # in sessions of their own: Ctrl-C is for rank zero, which ends the others
        subprocess.Popen(command, env={**os.environ, **shared, "LOCAL_RANK": str(rank)}, start_new_session=True)
        for rank in range(1, devices)
    ]
    over = threading.Event()
    watcher = threading.Thread(target=_interrupt_on_failure, args=(children, over), daemon=True)
    os.environ.update(shared, LOCAL_RANK="0")
    torch.set_num_threads(threads)
    try:
        watcher.start()
        yield
        over.set()
        for child in children:
            child.wait(PATIENCE_S)
    except UserError:
        raise
    except BaseException as error:
        failed = [rank for rank, child in enumerate(children, 1) if child.poll() not in (None, 0)]
        if failed:
            raise RuntimeError(f"rank {failed[0]} of the fit failed, see its message above") from error
        raise
    finally:
        over.set()
        for child in children:
            child.terminate()
        if distributed.is_initialized():
            distributed.destroy_process_group()
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
        torch.set_num_threads(threads_before)


def _interrupt_on_failure(children: list[subprocess.Popen[bytes]], over: threading.Event) -> None:
    """Rank zero would wait for a rank that has died until the process group's time is up."""
    while not over.wait(0.5):
        if any(child.poll() not in (None, 0) for child in children):
            os.kill(os.getpid(), signal.SIGINT)
            return
