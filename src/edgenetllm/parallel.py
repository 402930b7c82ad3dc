"""Independent pieces of work, several at a time: on this machine, or on the Ray cluster that it belongs to.

A piece carries its own seeds, so that no result depends on where it is computed or how many are at a time.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from joblib import Parallel, delayed, parallel_config

from edgenetllm.errors import UserError
from edgenetllm.installation import install_command
from edgenetllm.option_types import Backend

Piece = tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]  # what joblib's `delayed` makes
OPTION = "experience.backend=ray"
FREE_S = 20  # for CPUs of the cluster to become free, as those of work that has just ended
ANSWER_S = 10  # for the cluster at RAY_ADDRESS, which Ray itself would wait for without an end


@contextmanager
def parallel(workers: int, backend: Backend, **options: Any) -> Iterator[Callable[[Iterable[Piece]], Iterable[Any]]]:
    """A function that computes pieces of work, made by joblib's `delayed`, and gives their results in order.

    While open, its `workers` are kept; a single one is this process. `options` are joblib's for this machine, such as
    `prefer="threads"`. Raises UserError as `require_backend`.
    """
    if backend == "joblib":
        with Parallel(n_jobs=workers, **options) as pool:
            yield pool
        return
    require_backend(workers, backend)
    from ray.util.joblib import register_ray

    register_ray()
    folder = os.getcwd()
    each = {"num_cpus": 1, "scheduling_strategy": "SPREAD"}  # a CPU of its own, on as many nodes as there are
    with parallel_config("ray", ray_remote_args=each), Parallel(n_jobs=workers) as pool:
        yield lambda pieces: pool(delayed(_compute_in)(folder, *piece) for piece in pieces)


def require_backend(workers: int, backend: Backend) -> None:
    """Connect to the cluster (RAY_ADDRESS, or the one that this machine belongs to) where `backend` needs one.

    Raises UserError where Ray is not installed, no cluster runs or answers, or it has fewer free CPUs than `workers`.
    """
    if backend == "joblib":
        return
    if find_spec("ray") is None:
        raise UserError(f"{OPTION} needs Ray: {install_command('ray')}")
    import ray

    # Connect, once in a process.
    if not ray.is_initialized():
        _require_answer(os.environ.get("RAY_ADDRESS", ""))
        try:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.WARNING)
        except ConnectionError as error:
            raise UserError(
                f"{OPTION}: no Ray cluster was found ({str(error).splitlines()[0]}): start one (`ray start --head`), set "
                "RAY_ADDRESS, or type experience.backend=joblib"
            ) from None
    # CPUs enough, and free, for which work that has just ended gets some time.
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if cpus < workers:
        raise UserError(f"experience.workers={workers}: the Ray cluster has {cpus} CPUs")
    until = time.monotonic() + FREE_S
    while (free := int(ray.available_resources().get("CPU", 0))) < workers:
        if time.monotonic() > until:
            raise UserError(
                f"experience.workers={workers}: of the {cpus} CPUs of the Ray cluster {free} are free: wait for the others, "
                "or type fewer"
            )
        time.sleep(0.2)


def _require_answer(address: str) -> None:
    """Raises UserError where nothing listens at an address `host:port` or `ray://host:port`; other forms are left to Ray."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except OSError as error:
        raise UserError(
            f"{OPTION}: no Ray cluster answers at RAY_ADDRESS={address} ({error}): start one (`ray start --head`), correct "
            "the address, or type experience.backend=joblib"
        ) from None


def _compute_in(folder: str, function: Callable[..., Any], arguments: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """Compute a piece of work in `folder`, so that relative paths, as `paths.data_dir=data`, are the same on all nodes."""
    os.chdir(folder)
    return function(*arguments, **named)
