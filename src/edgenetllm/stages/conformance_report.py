"""All checks of a task, one after another, each with what is wrong."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from edgenetllm.config import load_task
from edgenetllm.stages import conformance, conformance_networks
from edgenetllm.stages.examined import Examined, Violation, identities_of
from edgenetllm.tasks.task import Task

CHECKS: dict[str, Callable[[Examined], None]] = {
    "shapes and types": conformance.shapes,
    "names": conformance.names,
    "seeds": conformance.seeds,
    "baselines": conformance.baselines,
    "done": conformance.done,
    "finite values": conformance.finite,
    "return-to-go": conformance.returns,
    "encoder and head": conformance_networks.networks,
    "loss": conformance_networks.loss,
    "step by step": conformance_networks.step_by_step,
    "identities": conformance.identities,
}


def check_all(task: Task, settings: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Name of a check and what is wrong (None: nothing), of a task that was built from these resolved settings."""
    yield from run_checks(Examined(task, lambda: _identities_elsewhere(settings)))


def run_checks(seen: Examined) -> Iterator[tuple[str, str | None]]:
    """The same of a task that is examined already. An error of the task's own code is what is wrong, with its place."""
    for name, check in CHECKS.items():
        try:
            check(seen)
            yield name, None
        except Violation as wrong:
            yield name, str(wrong)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            yield name, f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"


def _identities_elsewhere(settings: Mapping[str, Any]) -> dict[str, str]:
    """The identities of the task built in a new process, in which texts have other hashes."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = "1" if before != "1" else "2"
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
            return other.submit(_identities, dict(settings)).result()
    finally:
        os.environ.pop("PYTHONHASHSEED")
        if before is not None:
            os.environ["PYTHONHASHSEED"] = before


def _identities(settings: dict[str, Any]) -> dict[str, str]:
    return identities_of(load_task(settings))
