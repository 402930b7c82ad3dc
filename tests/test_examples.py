"""The task in `examples/`, which is a package of its own outside of `src/`, through every command."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from small import ROOT
from typed import TINY, call, runs, surroundings

from edgenetllm.report.results import Results

EXAMPLE = ROOT / "examples" / "congestion"
CONF = ["--config-dir", str(EXAMPLE / "conf")]
SMALL = [*TINY, "task=congestion", "data.train=12", "data.val=4", "data.test=6", "task.steps=20", "budget.episodes=16"]
SMALL += ["engine.latency_decisions=4"]


@pytest.fixture(scope="module")
def package() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(EXAMPLE), *filter(None, [os.environ.get("PYTHONPATH", "")])])}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, package) -> Path:
    """A folder with a run of train.py."""
    folder = tmp_path_factory.mktemp("example")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", package["PYTHONPATH"])
        call("train.py", folder, *CONF, *SMALL, "pruning=power_wanda", "callbacks=gradient_norm")
    return folder


@pytest.fixture(scope="module")
def all_commands(trained, package) -> Path:
    """The same folder, with a run of every other command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", package["PYTHONPATH"])
        (run,) = runs(trained, "train")
        from_run = [*CONF, f"run={run}", "trust=[congestion]", "evaluation.plots=false"]
        call("prune.py", trained, *from_run, "sparsity=0.6", "pruning=power_wanda", "pruning.method.power=1")
        call("prune.py", trained, *from_run, "sparsity=0.6", "pruning=wanda")
        call("evaluate.py", trained, *from_run, "data.seed=7")
        call("train.py", trained, *CONF, "-m", *SMALL, "sparsity=0.3,0.6", "evaluation.plots=false")
    return trained


def program(module: str, folder: Path, package: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    env = {**surroundings(), **package}
    command = [sys.executable, "-m", module, *words]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_the_python_of_the_example_is_short():
    assert sum(len(file.read_text().splitlines()) for file in EXAMPLE.rglob("*.py")) <= 200


def test_the_commands_of_its_readme_compose():
    lines = re.findall(r"^python train\.py \$C (.*?)(?: +#.*)?$", (EXAMPLE / "README.md").read_text(), re.MULTILINE)
    assert len(lines) == 2
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for line in lines:
            words = [word.partition(",")[0] for word in line.split() if word != "-m"]
            composed = compose("config", [f"hydra.searchpath=[file://{EXAMPLE / 'conf'}]", *words])
            assert composed.task.name == "congestion"


@pytest.mark.slow
def test_train_prune_and_evaluate_know_the_task(all_commands):
    for stage, count in (("train", 1), ("prune", 2), ("evaluate", 1)):
        assert len(runs(all_commands, stage)) == count
        for run in runs(all_commands, stage):
            results = Results.load(run / "congestion" / "results.json")
            assert results.task == "congestion"
            assert {"dense", "sparse", "aimd", "delay_based"} <= set(results.policies)
            assert list(results.metrics) == [
                f"test/{name}" for name in ("utility", "delivered_mbps", "delay_s", "lost")
            ]
            assert (run / "congestion" / "plots" / "utility_cdf.png").is_file() == (stage == "train")


def test_the_callback_has_logged(trained):
    (run,) = runs(trained, "train")
    (file,) = (run / "csv").glob("version_*/metrics.csv")
    with file.open() as lines:
        norms = [float(row["train/gradient_norm"]) for row in csv.DictReader(lines) if row["train/gradient_norm"]]
    assert norms
    assert min(norms) > 0


@pytest.mark.slow
def test_the_method_has_pruned_and_is_wanda_at_power_one(all_commands):
    (run,) = runs(all_commands, "train")
    assert json.loads((run / "congestion" / "results.json").read_text())["pruning"]["method"] == "power_wanda"
    ours, wanda = [Results.load(run / "congestion" / "results.json") for run in runs(all_commands, "prune")]
    assert ours.pruning["label"] == "power_wanda power=1.0"
    assert wanda.pruning["label"] == "wanda"
    assert ours.policies["sparse"] == wanda.policies["sparse"]
    assert ours.policies["sparse"] != Results.load(run / "congestion" / "results.json").policies["sparse"]


@pytest.mark.slow
def test_a_sweep_has_a_run_for_each_sparsity_and_the_page_compares_all(all_commands, package):
    (sweep,) = runs(all_commands, "multirun")
    jobs = [Results.load(file) for file in sweep.glob("*/congestion/results.json")]
    assert sorted(job.sparsity for job in jobs) == [0.3, 0.6]
    done = program("edgenetllm.compare", all_commands, package, "logs")
    assert done.returncode == 0, done.stderr
    page = (all_commands / "logs" / "comparison.html").read_text()
    assert "congestion" in page
    assert "power_wanda" in page


@pytest.mark.slow
def test_the_example_passes_the_check(tmp_path, package):
    done = program("edgenetllm.tasks.check", tmp_path, package, *CONF, *SMALL)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lines) == 11
    assert all(line.startswith("congestion ") and line.endswith(": ok") for line in lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_data_of_another_kind_and_a_package_that_is_not_found_are_refused_in_words(tmp_path, package, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", package["PYTHONPATH"])
    output = call("train.py", tmp_path, *CONF, *TINY, "task=congestion", "data=synthetic_dags", ok=False)
    assert output.splitlines()[-1] == "error: data=synthetic_dags is not for this task, which needs a TraceData"
    env = {**surroundings(), "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "train.py"), *CONF, "task=congestion"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No module named 'congestion'" in done.stderr
    assert "PYTHONPATH" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_queue_loses_nothing_that_it_does_not_report(package, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    import numpy as np
    from congestion.simulator import INTERVAL_S, QUEUE_MBIT, Link, bandwidth

    from edgenetllm.tasks.abr.data.traces import Trace

    steady = Trace("steady", np.arange(5.0), np.array([9.0, 2.0, 2.0, 2.0, 2.0]))
    np.testing.assert_allclose(bandwidth(steady), 2.0)
    link = Link([steady], 10, (0.5, 1.0), random_start=False)
    link.reset(np.array([0]))
    sent = received = 0.0
    for _ in range(10):
        seen, _, done = link.step(np.array([4]))
        sent += float(seen["rate_mbps"][0] * (1 - seen["lost"][0])) * INTERVAL_S
        received += float(seen["delivered_mbps"][0]) * INTERVAL_S
    assert done.all()
    assert sent == pytest.approx(received + float(link.queue_mbit[0]))
    assert float(link.queue_mbit[0]) <= QUEUE_MBIT
