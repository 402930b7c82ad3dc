"""A command that is killed or stopped goes on where it was, as a user would see it, with a tiny model."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from typed import ABR, call, command, runs, surroundings

from edgenetllm.commands import word
from edgenetllm.interruption import SAME_REQUEST_S
from edgenetllm.report.results import Results

# Long enough to be interrupted between two checkpoints; what it then plays is not what is asked here.
LONG = [*ABR, "budget.epochs=4", "budget.batches_per_epoch=40", "evaluation.plots=false"]


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("left_alone")
    call("train.py", folder, *LONG)
    return runs(folder, "train")[0]


class Started:
    """A command in a process of its own, that is sent a signal."""

    def __init__(self, folder: Path, *words: str, last: tuple[str, ...] = ()) -> None:
        self.output, self.folder = folder / "output.txt", folder
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [*command("train.py", folder, *words), *last],
                cwd=folder,
                env=surroundings(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def until(self, pattern: str) -> None:
        """Wait for a file that matches."""
        deadline = time.monotonic() + 120
        while not list(self.folder.glob(pattern)):
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def send(self, how: signal.Signals) -> str:
        """The output so far. No process that the command started is left, unless it had no chance to end them."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(how)
        self.process.wait(60)
        _, left = psutil.wait_procs(children, timeout=10)
        assert not left or how == signal.SIGKILL, [process.cmdline() for process in left]
        return self.output.read_text()


def state(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_resumes_to_the_same_metrics(left_alone, tmp_path, how):
    """Stop a run after its first checkpoint, go on, and compare with one that was left alone."""
    started = Started(tmp_path, *LONG, "logger=wandb")
    started.until("logs/train/*/checkpoints/last.ckpt")
    output = started.send(how)
    assert started.process.returncode == (-how if how == signal.SIGKILL else 128 + how)
    assert "Traceback" not in output
    interrupted = runs(tmp_path, "train")[0]
    before = state(interrupted)
    assert before["status"] == ("running" if how == signal.SIGKILL else "interrupted")
    output = call("train.py", tmp_path, *LONG, "logger=wandb", "resume=true")
    assert re.search(r"run: .*" + interrupted.name, output)
    assert state(interrupted)["id"] == before["id"]
    resumed, straight = (Results.load(run / "abr/results.json").policies for run in (interrupted, left_alone))
    for policy in ("dense", "sparse"):
        assert resumed[policy]["test/qoe"].mean == pytest.approx(straight[policy]["test/qoe"].mean, abs=1e-6)


@pytest.mark.slow
def test_the_command_that_an_interrupted_fit_prints_goes_on_with_it(tmp_path):
    """It is pasted into a shell, from a folder with a difficult name."""
    folder = tmp_path / "it's a=b [1], ü $HOME {x} (y)"
    folder.mkdir()
    log_dir = word("paths.log_dir", folder)
    started = Started(tmp_path, *ABR, "evaluation.plots=false", "budget.epochs=500", last=(log_dir,))
    started.until("*/train/*/csv/version_0/metrics.csv")
    output = started.send(signal.SIGTERM)
    assert started.process.returncode == 143
    assert "Traceback" not in output
    (run,) = (folder / "train").iterdir()
    assert state(run)["status"] == "interrupted"
    command = output.rpartition("go on with:\n")[2].strip()
    assert command.startswith("python ")
    pasted = command.replace("python ", f"{sys.executable} ", 1) + " dry_run=true"
    done = subprocess.run(["bash", "-c", pasted], cwd=tmp_path, env=surroundings(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert list((folder / "train").iterdir()) == [run]


@pytest.mark.slow
def test_while_a_pool_is_collected(tmp_path):
    started = Started(tmp_path, *ABR, "budget.episodes=50000", "experience.workers=2")
    started.until("logs/train/*/run.json")
    time.sleep(3)  # its workers have begun
    output = started.send(signal.SIGHUP)
    assert started.process.returncode == 128 + signal.SIGHUP
    assert "interrupted (SIGHUP); go on with:" in output
    assert state(runs(tmp_path, "train")[0])["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "statuses"),
    [([], ["interrupted"]), (["launcher=joblib", "launcher.jobs=2", "logger=wandb"], ["interrupted", "interrupted"])],
    ids=["basic", "joblib"],
)
def test_a_sweep_ends_with_its_summary(tmp_path, more, statuses):
    if more:
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    started = Started(tmp_path, "-m", *more, *ABR, "budget.epochs=500", "seed=1,2,3")
    for number in range(len(statuses)):
        started.until(f"logs/multirun/*/*seed{number + 1}*/checkpoints/last.ckpt")
    output = started.send(signal.SIGTERM)
    assert started.process.returncode == 143
    (sweep,) = (tmp_path / "logs" / "multirun").iterdir()
    assert [state(path.parent)["status"] for path in sorted(sweep.glob("*/run.json"))] == statuses
    for name in json.loads((sweep / "sweep.json").read_text())["jobs"]:
        assert re.search(rf"^ *{name} +seed=\d +(interrupted|not started)", output, re.MULTILINE)
    assert f"resume={sweep}" in output.rpartition("go on with:\n")[2]
    if more:  # every experiment logger was closed
        logs = [path.read_text() for path in sweep.glob("*/wandb/offline-run-*/logs/debug.log")]
        assert ["finishing run" in log for log in logs] == [True, True]


@pytest.mark.slow
def test_the_ranks_of_a_fit_end_with_it(tmp_path):
    started = Started(tmp_path, *LONG, "budget.epochs=500", "trainer.strategy=ddp", "trainer.devices=2")
    started.until("logs/train/*/checkpoints/last.ckpt")
    output = started.send(signal.SIGTERM)
    assert started.process.returncode == 143
    assert "go on with:" in output
    assert state(runs(tmp_path, "train")[0])["status"] == "interrupted"


SLOW_TO_CLOSE = f"""
import os, signal, sys, time
from edgenetllm.interruption import Interrupted, listening
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
with listening():
    try:
        print("ready", flush=True)
        time.sleep(30)
    except Interrupted as error:
        os.kill(os.getpid(), signal.SIGTERM)  # the same request once more: nothing happens
        print(error, error.exit_code, flush=True)
        time.sleep({SAME_REQUEST_S + 0.2})
        print("closing", flush=True)
        time.sleep(30)
"""


def test_a_second_signal_ends_what_takes_long_to_close():
    process = subprocess.Popen([sys.executable, "-c", SLOW_TO_CLOSE], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT 130\n"
    assert process.stdout.readline() == "closing\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == -signal.SIGTERM
