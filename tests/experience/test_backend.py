"""Pools are played and experts searched in this process, in others, or on a Ray cluster, always with the same bits."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import delayed
from small import ARCHITECTURES
from test_config import settings
from typed import ABR, call, runs

from edgenetllm import parallel as parallel_module
from edgenetllm.config import load_config
from edgenetllm.edge.replay import replay
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.pool import Pool
from edgenetllm.models.decoder import build_decoder
from edgenetllm.models.policy import build_policy
from edgenetllm.models.session import Session
from edgenetllm.parallel import Backend, parallel, require_backend
from edgenetllm.stages.identity import adaptation_key, expert_hash
from edgenetllm.tasks.abr.expert.counterfactual import CounterfactualSearch
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.expert.evolution import Evolution
from edgenetllm.tasks.cjs.task import CjsTask

WITH_RAY = importlib.util.find_spec("ray") is not None


def play(task, folder: Path, workers: int, backend: Backend = "joblib") -> Pool:
    shares = [PoolEntry("teacher", 60, 0.2), PoolEntry("bba", 20)]  # three pieces of work
    return collect(task, shares, 5, folder, workers, backend=backend)


def assert_same_bits(one: Pool, other: Pool) -> None:
    assert one.observation.keys() == other.observation.keys()
    columns = [(one.observation[name], other.observation[name]) for name in one.observation]
    for mine, theirs in [*columns, *((getattr(one, n), getattr(other, n)) for n in ("action", "reward", "target"))]:
        np.testing.assert_array_equal(mine, theirs)


def test_two_processes_play_what_one_plays(task, tmp_path):
    assert_same_bits(play(task, tmp_path / "one", workers=1), play(task, tmp_path / "two", workers=2))


def test_where_a_pool_is_played_is_no_part_of_its_identity(tmp_path):
    words = ["task=cjs", "experience=expert"]
    here, there = (load_config(settings(*words, f"experience.backend={name}")) for name in ("joblib", "ray"))
    assert (here.experience.backend, there.experience.backend) == ("joblib", "ray")
    assert there.tasks["cjs"].experience.expert.backend == "ray"
    assert expert_hash(here.tasks["cjs"]) == expert_hash(there.tasks["cjs"])
    assert adaptation_key(here, False).digest == adaptation_key(there, False).digest


def test_an_unknown_backend_is_refused():
    with pytest.raises(UserError, match=r"experience\.backend"):
        load_config(settings("experience.backend=dask"))


@pytest.mark.skipif(WITH_RAY, reason="Ray is installed")
def test_without_ray_a_command_says_what_to_install(tmp_path):
    output = call("train.py", tmp_path, *ABR, "experience.backend=ray", ok=False)
    assert output.splitlines()[-1] == "error: experience.backend=ray needs Ray: pip install -e '.[ray]'"
    assert runs(tmp_path, "train") == []
    call("train.py", tmp_path, *ABR, "experience.backend=ray", "dry_run=true")


@pytest.mark.skipif(not WITH_RAY, reason="Ray is not installed")
@pytest.mark.parametrize(
    ("address", "message"),
    [
        pytest.param(None, "no Ray cluster was found", marks=pytest.mark.slow),
        ("127.0.0.1:1", r"no Ray cluster answers at RAY_ADDRESS=127\.0\.0\.1:1"),
    ],
)
def test_without_a_cluster_a_command_says_how_to_start_one(tmp_path, monkeypatch, address, message):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # where Ray looks for a cluster of this machine
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    output = call("train.py", tmp_path, *ABR, "experience.backend=ray", ok=False)
    assert re.search(rf"^error: experience\.backend=ray: {message}.*`ray start --head`", output, re.MULTILINE)
    assert runs(tmp_path, "train") == []


def test_ray_is_imported_by_nobody_who_does_not_ask_for_it():
    words = "import sys, edgenetllm.experience.collect, edgenetllm.edge.replay; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", words], check=True)


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two nodes on this machine, with one CPU each; it always ends with the tests."""
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    running = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        running.add_node(**node)
        running.wait_for_nodes()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("RAY_ADDRESS", running.address)
            yield running
    finally:
        ray.shutdown()
        running.shutdown()


@pytest.mark.slow
def test_a_ray_cluster_plays_what_one_process_plays(task, tmp_path, cluster):
    """A pool, and the test episodes of a replay; a language model plays here."""
    assert_same_bits(play(task, tmp_path / "one", workers=1), play(task, tmp_path / "ray", workers=2, backend="ray"))
    with pytest.raises(UserError, match=r"experience\.workers=9: the Ray cluster has 2 CPUs"):
        require_backend(9, "ray")
    decoder = build_decoder(ARCHITECTURES["llama"], None)
    model = Session(build_policy(decoder, {task.name: task}, embedding_rms=1.0).eval(), 1.0, "dense")
    policies = {"dense": model, **task.baselines()}
    played_at = {name: "here" if isinstance(policy, Session) else "away" for name, policy in policies.items()}
    assert set(played_at.values()) == {"here", "away"}
    here = replay(task, "test", policies, progress=False)
    there = replay(task, "test", policies, progress=False, workers=2, backend="ray")
    assert list(here) == list(there) == list(policies)
    for name, mine in here.items():
        for column in ("action", "reward", "valid"):
            np.testing.assert_array_equal(getattr(mine, column), getattr(there[name], column))
        assert mine.record.keys() == there[name].record.keys()
        for key, values in mine.record.items():
            np.testing.assert_array_equal(values, there[name].record[key])


def test_it_is_the_cluster_that_computes(cluster):
    """Both nodes: Ray says who computed what."""

    def where(number: int) -> tuple[int, int, str]:
        import ray

        time.sleep(0.3)
        return number, os.getpid(), ray.get_runtime_context().get_node_id()

    with parallel(2, "ray") as compute:
        found = list(compute(delayed(where)(number) for number in range(6)))
    assert [number for number, *_ in found] == list(range(6))
    assert os.getpid() not in {process for _, process, _ in found}
    assert len({node for *_, node in found}) == 2


def test_a_cluster_that_is_busy_is_refused(cluster, monkeypatch):
    import ray

    monkeypatch.setattr(parallel_module, "FREE_S", 1)
    require_backend(2, "ray")

    @ray.remote(num_cpus=1)
    class Busy:
        def ready(self) -> bool:
            return True

    busy = Busy.remote()
    ray.get(busy.ready.remote())
    time.sleep(2)  # what is free is known with a delay
    try:
        with pytest.raises(UserError, match=r"experience\.workers=2: of the 2 CPUs of the Ray cluster 1 are free"):
            require_backend(2, "ray")
    finally:
        ray.kill(busy)


@pytest.mark.slow
def test_a_ray_cluster_finds_the_rule_that_one_process_finds(tmp_path, cluster):
    data = SyntheticDags(name="synthetic_dags", setting="tiny", seed=0)
    task = CjsTask("cjs", data, "pointer", window=5, segment=16, validation=3, test=4)
    small = {"start": "tuned", "generations": 2, "population": 4, "jobs": 40, "validation_jobs": 40}
    here, _ = Evolution(**small).search(task, 3, tmp_path / "here", progress=False)
    there, _ = Evolution(**small, workers=2, backend="ray").search(task, 3, tmp_path / "there", progress=False)
    np.testing.assert_array_equal(here.weights, there.weights)


@pytest.mark.slow
def test_a_ray_cluster_finds_the_expert_that_one_process_finds(task, tmp_path, cluster):
    small = {
        "members": 2,
        "clone_episodes": 8,
        "clone_epochs": 1,
        "iterations": 2,
        "episodes": 4,
        "horizon": 3,
        "updates": 2,
    }
    here, curve = CounterfactualSearch(**small).search(task, 3, tmp_path / "here", progress=False)
    there, rows = CounterfactualSearch(**small, workers=2, backend="ray").search(
        task, 3, tmp_path / "there", progress=False
    )
    mine, theirs = here.state_dict(), there.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert [row["validation"] for row in curve] == [row["validation"] for row in rows]


@pytest.mark.slow
def test_a_command_on_a_ray_cluster_has_the_results_of_one_on_this_machine(tmp_path, cluster):
    results = []
    for backend in ("joblib", "ray"):
        (tmp_path / backend).mkdir()
        call("train.py", tmp_path / backend, *ABR, "evaluation.plots=false", f"experience.backend={backend}")
        (run,) = runs(tmp_path / backend, "train")
        results.append(json.loads((run / "abr" / "results.json").read_text())["policies"])
    assert results[0] == results[1]
