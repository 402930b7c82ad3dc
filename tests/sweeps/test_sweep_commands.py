"""Sweeps as a user types them: nothing leaks between jobs, one failure stops nothing, and the same command goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_pipeline import TINY, call

from edgenetllm.reporting.results import Results

SMALL = [*TINY, "evaluation.plots=false", "logger=csv"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, str]:
    """A folder with a sweep of three jobs in one process, the second of which fails, and what was printed."""
    folder = tmp_path_factory.mktemp("sweep")
    return folder, call("train.py", folder, "-m", *SMALL, "model.layers=1,9,2", ok=False)


@pytest.mark.slow
def test_one_failure_stops_nothing_and_is_told_at_the_end(swept):
    folder, output = swept
    states = [json.loads(path.read_text()) for path in (folder / "logs" / "multirun").glob("*/*/run.json")]
    assert sorted(state["status"] for state in states) == ["failed", "finished", "finished"]
    assert "model.layers=9: this backbone has 2 decoder blocks" in output
    assert "resume=true" in output
    errors = list((folder / "logs" / "multirun").glob("*/*/error.txt"))
    assert len(errors) == 1
    assert "Traceback" in errors[0].read_text()


@pytest.mark.slow
def test_a_job_is_what_it_would_be_alone(swept, tmp_path):
    """The third of a sweep against the same command in a process, a cache and a folder of its own."""
    folder, _ = swept
    third = next(
        path.parent
        for path in (folder / "logs" / "multirun").glob("*/*/results.json")
        if "layers: 2" in (path.parent / "config.yaml").read_text()
    )
    call("train.py", tmp_path, *SMALL, "model.layers=2")
    alone = next((tmp_path / "logs" / "train").glob("*"))
    first, second = (Results.load(path / "results.json") for path in (third, alone))
    assert first.policies == second.policies
    assert first.retention == second.retention
    assert first.bundle == second.bundle


@pytest.mark.slow
def test_the_same_command_runs_only_what_is_not_done(swept):
    folder, _ = swept
    before = {path: path.stat().st_mtime_ns for path in (folder / "logs" / "multirun").glob("*/*/results.json")}
    output = call("train.py", folder, "-m", *SMALL, "model.layers=1,9,2", "resume=true", ok=False)
    after = {path: path.stat().st_mtime_ns for path in (folder / "logs" / "multirun").glob("*/*/results.json")}
    assert before == after
    assert len(list((folder / "logs" / "multirun").iterdir())) == 1
    assert "model.layers=9" in output


@pytest.mark.slow
def test_a_dry_run_tells_what_is_there_and_leaves_nothing(swept):
    folder, _ = swept
    before = sorted(folder.rglob("*"))
    output = call("train.py", folder, "-m", *SMALL, "model.layers=1,2", "sparsity=0.4,0.7", "dry_run=true")
    assert "adaptation" in output
    assert "4 jobs" in output
    kept = [path for path in sorted(folder.rglob("*")) if path.suffix != ".lock"]
    assert kept == [path for path in before if path.suffix != ".lock"]
