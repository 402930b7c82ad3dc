"""The same sweep on every launcher has the figures of a single run. SLURM is tried by submitit's local executor."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from small import ROOT
from sweeps.commands import QUICK, figures, jobs, run, sweeps

from edgenetllm.sweeps.gpus import claim_gpu

PLUGINS = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
    "slurm": "hydra_plugins.hydra_submitit_launcher",
    "ray": "hydra_plugins.hydra_ray_launcher",
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """Figures of one job by itself."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, folder, "train", "seed=2") == 0
    return figures(next((folder / "logs" / "train").glob("*")))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_of_other_processes_give_the_figures_of_a_single_run(alone, tmp_path, monkeypatch, launcher):
    pytest.importorskip(PLUGINS[launcher])
    words = ["-m", f"launcher={launcher}", "launcher.jobs=2", "seed=2", "pruning.calibration=text,pool"]
    assert run(monkeypatch, tmp_path, "train", *words) == 1  # the tiny model has no tokenizer for text
    found = jobs(sweeps(tmp_path)[0])
    assert [job["status"] for job in found.values()] == ["failed", "finished"]
    assert figures(found["pruning.calibration=pool"]["folder"]) == alone


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
small = {"object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
for _ in range(2):
    cluster.add_node(num_cpus=1, **small)
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_ray_cluster_of_two_workers_gives_the_figures_of_a_single_run(alone, tmp_path):
    """Its nodes are started elsewhere and know only the packages: code, data and results lie in shared folders."""
    pytest.importorskip("ray")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    here = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    here |= {"RAY_memory_monitor_refresh_ms": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        cwd=elsewhere,
        env=here,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        assert address
        words = ["-m", "launcher=ray", f"hydra.launcher.ray.init.address={address}", "seed=2,3", *QUICK]
        command = [sys.executable, str(ROOT / "train.py"), *words]
        done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        cluster.communicate(timeout=60)
    found = jobs(sweeps(tmp_path)[0])
    assert [job["status"] for job in found.values()] == ["finished", "finished"]
    assert figures(found["seed=2"]["folder"]) == alone
    assert not list(elsewhere.iterdir())


def test_workers_share_out_the_gpus_and_a_dead_one_gives_its_back(tmp_path):
    """Three workers and two GPUs: the third has that of the first; a new worker takes the place of one that was killed."""
    script = (
        "import os, sys; from pathlib import Path; from edgenetllm.sweeps.gpus import claim_gpu\n"
        "claim_gpu(2, 3, Path(sys.argv[1])); claim_gpu(2, 3, Path(sys.argv[1]))  # a second job changes nothing\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
    )

    def worker() -> tuple[subprocess.Popen, str]:
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "4,7"}
        command = [sys.executable, "-c", script, str(tmp_path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(command, env=environment, text=True, **pipes)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    workers = [worker() for _ in range(3)]
    assert [gpu for _, gpu in workers] == ["4", "7", "4"]
    workers[1][0].kill()
    workers[1][0].wait()
    workers[1] = worker()
    assert workers[1][1] == "7"
    for process, _ in workers:
        process.communicate()


def test_no_gpu_is_given_unless_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    claim_gpu(0, 2, tmp_path)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize("name", ["basic", *PLUGINS])
def test_every_launcher_composes_and_tells_hydra_what_the_group_says(name):
    if name != "basic":
        pytest.importorskip(PLUGINS[name])
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [f"launcher={name}", "hydra.sweep.dir=x"], return_hydra_config=True)
    assert config.launcher.name == name
    launcher = config.hydra.launcher
    kind = {"submitit_local": "LocalLauncher", "slurm": "SlurmLauncher"}.get(name, f"{name.capitalize()}Launcher")
    assert str(launcher._target_).endswith(kind)
    if name == "joblib":
        assert launcher.n_jobs == config.launcher.jobs
    if name == "slurm":
        assert launcher.array_parallelism == config.launcher.jobs
