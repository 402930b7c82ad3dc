"""A run always ends tidily, whatever happened in it."""

from __future__ import annotations

import json

import pytest
import wandb
from test_config import settings

from edgenetllm.config import load_config
from edgenetllm.reporting.tracking import log_results, tracked
from edgenetllm.run import Run


@pytest.fixture
def start(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)

    def make(logger: str):
        resolved = settings("experiment=debug", f"logger={logger}")
        return load_config(resolved), Run(tmp_path / "run", "train", resolved, {"task": "abr"})

    return make


@pytest.mark.parametrize("logger", ["wandb", "csv", "tensorboard"])
def test_results_reach_every_logger_and_the_run_is_closed(start, logger):
    config, run = start(logger)
    with tracked(config, run) as tracker:
        log_results(tracker, {"test/qoe": 1.25}, (["policy", "episode", "qoe"], [["bba", "t", 1.0]]), run.folder)
    assert run.state()["status"] == "finished"
    assert wandb.run is None
    assert any(path.is_file() for path in (run.folder / ("wandb" if logger == "wandb" else logger)).rglob("*"))


@pytest.mark.parametrize(("error", "status"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_a_job_that_breaks_is_closed_as_broken(start, error, status, monkeypatch):
    config, run = start("wandb")
    codes = []
    finish = wandb.finish
    monkeypatch.setattr(wandb, "finish", lambda exit_code=0: (codes.append(exit_code), finish(exit_code))[0])

    def job():
        with tracked(config, run):
            raise error

    with pytest.raises(error):
        job()
    assert run.state()["status"] == status
    assert codes == [1]
    assert wandb.run is None


def test_the_id_outlives_an_interruption(start):
    _, run = start("csv")
    run.start()
    first = run.id
    run.finish("interrupted")
    run.start()
    assert run.id == first
    assert json.loads((run.folder / "run.json").read_text())["status"] == "running"
