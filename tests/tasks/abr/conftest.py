"""Small sets of traces, and the real ones where this machine has them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from edgenetllm.tasks.abr.data.datasets import Synthetic
from edgenetllm.tasks.abr.data.synthetic import generate, generate_video
from edgenetllm.tasks.abr.data.traces import join
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import FORMS
from edgenetllm.tasks.abr.task import AbrTask

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def shared():
    """The folder of golden cases (golden/abr) and public data (data/abr)."""
    folder = Path(os.environ.get("EDGENETLLM_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "golden" / "abr").is_dir():
        pytest.skip("no golden cases: EDGENETLLM_SHARED names their folder")
    return folder


@pytest.fixture(scope="session")
def golden(shared):
    """Golden chunks: name -> array."""
    with np.load(shared / "golden" / "abr" / "chunks.npz") as columns:
        return dict(columns)


@pytest.fixture(scope="session")
def golden_json(shared):
    """A golden JSON file, by name."""
    return lambda name: json.loads((shared / "golden" / "abr" / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def video():
    return generate_video()


@pytest.fixture(scope="session")
def traces():
    """Twelve generated traces that start in rows 1, 2, 3, ..."""
    return join(generate(12, 320, seed=7), np.arange(1, 13))


@pytest.fixture
def environment(traces, video):
    """Seed i is trace i."""
    return AbrEnvironment(traces, video, FORMS["lin"], random_start=False)


@pytest.fixture
def training(traces, video):
    """A seed draws trace, start row and delay noise."""
    return AbrEnvironment(traces, video, FORMS["lin"], random_start=True, noise=True)


@pytest.fixture
def task(tmp_path):
    """A small task on generated data."""
    data = Synthetic(name="synthetic", seed=0, seconds=320, train=20, val=4, test=6)
    return AbrTask(name="abr", data=data, data_dir=tmp_path, qoe="lin", tokens="fused", noise=True, temperature=0.1)
