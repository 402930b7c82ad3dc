"""Where pools are played and experts searched: in this process, in others, or on a Ray cluster, always with the same bits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from test_config import settings
from typed import ABR, call, runs

from edgenetllm.config import load_config
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import Share, collect
from edgenetllm.experience.pool import Pool
from edgenetllm.parallel import Backend, require_backend
from edgenetllm.stages.identity import adaptation_hash, improvement_hash
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.expert.improvement import Improvement
from edgenetllm.tasks.cjs.task import CjsTask

WITH_RAY = importlib.util.find_spec("ray") is not None


def play(task, folder: Path, workers: int, backend: Backend = "joblib") -> Pool:
    shares = [Share("teacher", 60, 0.2), Share("bba", 20)]  # three pieces of work
    return collect(task, shares, 5, folder, workers, backend=backend)


def assert_same_bits(one: Pool, other: Pool) -> None:
    assert one.observation.keys() == other.observation.keys()
    columns = [(one.observation[name], other.observation[name]) for name in one.observation]
    for mine, theirs in [*columns, *((getattr(one, n), getattr(other, n)) for n in ("action", "reward", "target"))]:
        np.testing.assert_array_equal(mine, theirs)


def test_two_processes_play_what_one_plays(task, tmp_path):
    assert_same_bits(play(task, tmp_path / "one", workers=1), play(task, tmp_path / "two", workers=2))


def test_where_a_pool_is_played_is_no_part_of_its_identity(tmp_path):
    words = ["task=cjs", "experience=iterated"]
    here, there = (load_config(settings(*words, f"experience.backend={name}")) for name in ("joblib", "ray"))
    assert (here.experience.backend, there.experience.backend) == ("joblib", "ray")
    assert there.experience.improvement.backend == "ray"
    assert improvement_hash(here) == improvement_hash(there)
    assert adaptation_hash(here, False) == adaptation_hash(there, False)


def test_an_unknown_backend_is_refused():
    with pytest.raises(UserError, match=r"experience\.backend"):
        load_config(settings("experience.backend=dask"))


@pytest.mark.skipif(WITH_RAY, reason="Ray is installed")
def test_without_ray_a_command_says_what_to_install(tmp_path):
    output = call("train.py", tmp_path, *ABR, "experience.backend=ray", ok=False)
    assert output.splitlines()[-1] == "error: experience.backend=ray needs Ray: pip install -e '.[ray]'"
    assert runs(tmp_path, "train") == []
    call("train.py", tmp_path, *ABR, "experience.backend=ray", "dry_run=true")


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two nodes on this machine, with one CPU each."""
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    running = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    running.add_node(num_cpus=1)
    running.wait_for_nodes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", running.address)
        yield running
    ray.shutdown()
    running.shutdown()


@pytest.mark.slow
def test_a_ray_cluster_plays_what_one_process_plays(task, tmp_path, cluster):
    assert_same_bits(play(task, tmp_path / "one", workers=1), play(task, tmp_path / "ray", workers=2, backend="ray"))
    with pytest.raises(UserError, match=r"experience\.workers=9: the Ray cluster has 2 CPUs"):
        require_backend(9, "ray")


@pytest.mark.slow
def test_a_ray_cluster_finds_the_rule_that_one_process_finds(tmp_path, cluster):
    data = SyntheticDags(name="synthetic_dags", setting="tiny", seed=0)
    task = CjsTask("cjs", data, "pointer", window=5, segment=16, validation=3, test=4)
    small = {"start": "tuned", "generations": 2, "population": 4, "jobs": 40, "validation_jobs": 40}
    here, _ = Improvement(**small).improve(task, 3, tmp_path / "here", progress=False)
    there, _ = Improvement(**small, workers=2, backend="ray").improve(task, 3, tmp_path / "there", progress=False)
    np.testing.assert_array_equal(here.weights, there.weights)
