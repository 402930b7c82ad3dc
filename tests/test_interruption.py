"""Training that is killed or stopped goes on where it was, as a user would see it, with a tiny model."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from typed import ABR, call, command, runs, surroundings

from edgenetllm.reporting.results import Results

# Long enough to be interrupted between two checkpoints; what it then plays is not what is asked here.
LONG = [*ABR, "budget.epochs=4", "budget.batches_per_epoch=40", "evaluation.plots=false"]


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("left_alone")
    call("train.py", folder, *LONG)
    return runs(folder, "train")[0]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_run_resumes_to_the_same_metrics(left_alone, tmp_path, how):
    """Kill a run after its first checkpoint, go on, and compare with one that was left alone."""
    process = subprocess.Popen(
        command("train.py", tmp_path, *LONG, "logger=wandb"),
        cwd=tmp_path,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("logs/train/*/checkpoints/last.ckpt")):
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(how)
    process.wait(60)
    assert process.returncode != 0
    interrupted = runs(tmp_path, "train")[0]
    state = json.loads((interrupted / "run.json").read_text())
    assert state["status"] == ("running" if how == signal.SIGKILL else "interrupted")
    output = call("train.py", tmp_path, *LONG, "logger=wandb", "resume=true")
    assert re.search(r"run: .*" + interrupted.name, output)
    assert json.loads((interrupted / "run.json").read_text())["id"] == state["id"]
    resumed, straight = (Results.load(run / "results.json").policies for run in (interrupted, left_alone))
    for policy in ("dense", "sparse"):
        assert resumed[policy]["test/qoe"].mean == pytest.approx(straight[policy]["test/qoe"].mean, abs=1e-6)
