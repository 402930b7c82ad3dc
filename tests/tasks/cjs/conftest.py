"""Workloads that the tests of cluster scheduling share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgenetllm.tasks.cjs.data.datasets import SyntheticDags, Tpch
from edgenetllm.tasks.cjs.simulator.profiles import Tables, tabulate
from edgenetllm.tasks.cjs.task import CjsTask

SHARED = Path(os.environ.get("EDGENETLLM_SHARED", Path(__file__).resolve().parents[4] / "shared"))


@pytest.fixture(scope="session")
def workload() -> SyntheticDags:
    return SyntheticDags(name="synthetic_dags", setting="tiny", seed=0)


@pytest.fixture(scope="session")
def tables(workload) -> Tables:
    return tabulate(workload.profiles())


@pytest.fixture
def cjs_task(workload) -> CjsTask:
    return CjsTask("cjs", workload, "pointer", window=5, segment=16, validation=3, test=4)


@pytest.fixture(scope="session")
def tpch() -> Tpch:
    if not (SHARED / "data" / "cjs" / "tpch").is_dir():
        pytest.skip("needs the TPC-H profiles (EDGENETLLM_SHARED)")
    return Tpch(name="tpch", setting="small", data_dir=SHARED / "data")


@pytest.fixture(scope="session")
def golden() -> Path:
    folder = SHARED / "golden" / "cjs"
    if not folder.is_dir():
        pytest.skip("needs the golden cases of the public simulator (EDGENETLLM_SHARED)")
    return folder
