"""Bundles from anywhere: an altered one decides with finite numbers, or is refused soon, in a sentence and little memory."""

from __future__ import annotations

import os
import random
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contained import campaign, check
from hostile_bundles import Files, altered_and_sealed, altered_as_it_is, bundles
from small import make_task
from variants import TASKS

import edgenetllm.edge as edge
from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.compiled.decoder import CompiledDecoder
from edgenetllm.edge.compiled.layouts import Layout
from edgenetllm.edge.engine import load_backbone, load_policy
from edgenetllm.edge.policy import blank
from edgenetllm.errors import UserError
from edgenetllm.tasks.task import Task

CASES = int(os.environ.get("ROBUSTNESS_CASES", "50000"))  # of each campaign in the long part


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> list[Files]:
    """Every kind of bundle; all code that they can need is compiled before times are taken and files watched."""
    files = bundles(tmp_path_factory.mktemp("bundles"))
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate(files):
            decide(written(one, Path(folder) / str(number)))
        bundle = read_bundle(Path(folder) / "0")
        for layout in Layout:
            CompiledDecoder(bundle.manifest.model, bundle.under("decoder."), layout=layout)
    return files


@pytest.fixture(scope="module")
def tasks() -> dict[str, Task]:
    return {"abr": make_task(), "cjs": TASKS["pointer"]()}


def written(files: Files, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def decide(folder: Path) -> None:
    """Load the first task of a bundle and decide four times; all of its values must be finite."""
    bundle = read_bundle(folder)
    for name in bundle.tensors:
        assert np.isfinite(bundle.array(name)).all()
    policy = edge.load(folder, bundle.manifest.task.split("+")[0])
    session, observation = policy.start(), blank(policy.networks.encoder.inputs)
    for _ in range(min(4, policy.networks.max_steps)):
        assert np.isfinite(session.decide(observation)).all()
        session.observe(0.5)


def with_torch(folder: Path, tasks: dict[str, Task]) -> None:
    """Load a bundle as evaluation and specialisation do."""
    name = read_bundle(folder).manifest.task.split("+")[0]
    if name not in tasks:
        raise UserError("a task that is not here")
    load_policy(folder, tasks[name])
    load_backbone(folder)


def run(
    name: str, contents: list[Files], altered: Callable[..., Files], load: Callable[[Path], Any], numbers: range
) -> None:
    def attempt(number: int, folder: Path) -> None:
        chance = random.Random(number)
        files = altered(contents[number % len(contents)], chance)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on tensors without elements
            warnings.simplefilter("error", RuntimeWarning)
            load(written(files, folder))

    check(campaign(name, numbers, attempt))


@pytest.mark.robustness
def test_altered_bundles(contents, tasks):
    run("bundles altered as they are", contents, altered_as_it_is, decide, range(400))
    run("bundles altered and sealed", contents, altered_and_sealed, decide, range(600))
    run(
        "bundles altered and sealed, with torch",
        contents,
        altered_and_sealed,
        lambda at: with_torch(at, tasks),
        range(100),
    )


@pytest.mark.robustness
@pytest.mark.slow
def test_many_altered_bundles(contents, tasks):
    run("bundles altered as they are", contents, altered_as_it_is, decide, range(CASES))
    run("bundles altered and sealed", contents, altered_and_sealed, decide, range(CASES))
    few = range(CASES, CASES + CASES // 10)
    run("bundles altered and sealed, with torch", contents, altered_and_sealed, lambda at: with_torch(at, tasks), few)
