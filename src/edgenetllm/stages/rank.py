"""A rank of a fit other than rank zero, which does nothing else.

It is a child of rank zero (`python -m edgenetllm.stages.rank RUN PIPE`, started by edgenetllm.stages.ranks), or was started
by torchrun or srun with the command of the run (`follow`).
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from edgenetllm import console
from edgenetllm.config import load_config
from edgenetllm.errors import RankZeroEnded, UserError
from edgenetllm.launched import Launch
from edgenetllm.run import CONFIG_FILE, config_hash, read_state
from edgenetllm.saved_config import read_config
from edgenetllm.stages.finite_budget import with_numbers
from edgenetllm.stages.fitting import fit
from edgenetllm.stages.logs import check_same_logs
from edgenetllm.stages.meeting import END_S, POLL_S, SEEN_S, Meeting, Problem, meeting_of, sees
from edgenetllm.stages.pool import collect_pools
from edgenetllm.stages.ranks import READY, variables


def main(folder: Path, pipe: int) -> None:
    console.prepare()
    transformers_logging.set_verbosity_error()
    _fit(folder, lambda: os.write(pipe, READY))


def follow(launch: Launch, settings: dict[str, Any]) -> None:
    """Take part in the fit as a rank above zero that torchrun or srun started: no folder, no log, no pool, no pruning.

    Raises RankZeroEnded where rank zero failed or was interrupted.
    """
    transformers_logging.set_verbosity_error()
    meeting = meeting_of(launch)
    check = meeting.wait_for("check")
    if check is None:
        return
    try:
        meeting.answer("seen", _problem(launch, settings, check))
        order = meeting.wait_for("fit")
        if order is not None:  # else the adaptation was found in the cache
            _fit_for(meeting, Path(order["folder"]), int(order["threads"]))
    finally:
        meeting.answer("left")


def _problem(launch: Launch, settings: dict[str, Any], check: dict[str, Any]) -> Problem:
    """The reason why this rank cannot fit what rank zero was started for; None where it can."""
    try:
        config = load_config(settings)
        if config_hash(settings) != check["config"]:
            problem: Problem = "was started with another configuration: type the same words on every node"
        else:
            config.compute.check_devices()
            problem = sees(config, check["file"])
    except UserError as error:
        problem = f"has a problem that rank 0 has not: {error}"
    return None if problem is None else f"rank {launch.rank} on {socket.gethostname()} {problem}"


def _fit_for(meeting: Meeting, folder: Path, threads: int) -> None:
    """Fit the run in `folder`. Raises RankZeroEnded for an error that the end of rank zero has caused."""
    torch.set_num_threads(threads)

    def wait_until_all_are_ready() -> None:
        meeting.answer("ready")
        if meeting.wait_for("go") is None:
            raise RankZeroEnded(f"{meeting}: rank 0 has ended before the fit began")

    try:
        until = time.monotonic() + SEEN_S
        while not (folder / CONFIG_FILE).is_file() and time.monotonic() < until:
            time.sleep(POLL_S)
        with variables(meeting.launch.variables):
            _fit(folder, wait_until_all_are_ready)
    except RankZeroEnded:
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        meeting.answer("ready", problem)
        meeting.answer("failed", problem)
        if (end := meeting.why(END_S)) is not None:
            raise RankZeroEnded(f"{meeting}: rank 0 {end}") from error
        raise


def _fit(folder: Path, wait_for_ranks: Callable[[], object]) -> None:
    config = with_numbers(load_config(read_config(folder / CONFIG_FILE)))
    pools = collect_pools(config)  # rank zero has put it into the cache
    check_same_logs(pools, read_state(folder).get("logs", {}), folder)
    fit(config, folder, pools, loggers=None, wait_for_ranks=wait_for_ranks)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
