"""What past runs tell of the time of a job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from edgenetllm.stages.threads import threads_of_a_job
from edgenetllm.sweeps.past import past_steps, seconds_of
from edgenetllm.sweeps.plan import duration

SETTINGS = {
    "task": {"name": "abr"}, "data": {"name": "fcc"}, "model": {"name": "smollm2", "layers": 8}, "adapter": {"rank": 8},
    "experience": {"name": "offline"}, "budget": {"episodes": 100, "epochs": 2, "batches_per_epoch": 10},
    "trainer": {"batch_size": 4, "accelerator": "cpu", "precision": "fp32"}, "pruning": {"method": "wanda", "windows": 32},
    "recovery": {"name": "none"},
}  # fmt: skip


def finished(folder: Path, settings: dict, timings: dict, learnt: bool = True) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "results.json").write_text(json.dumps({"timings_s": timings}))
    if learnt:
        (folder / "checkpoints").mkdir()


def test_a_step_takes_as_long_as_the_slowest_like_it_in_proportion_to_its_size(tmp_path):
    finished(tmp_path / "train" / "a", SETTINGS, {"pool": 50.0, "adaptation": 80.0, "replay": 9.0})
    finished(tmp_path / "multirun" / "s" / "b", SETTINGS, {"pool": 0.1, "adaptation": 1.0, "replay": 7.0}, learnt=False)
    past = past_steps(tmp_path)
    longer = {**SETTINGS, "budget": {"episodes": 300, "epochs": 4, "batches_per_epoch": 10}, "seed": 5}
    assert seconds_of("pool", longer, past) == pytest.approx(150)  # the other one found its pool
    assert seconds_of("adaptation", longer, past) == pytest.approx(160)
    assert seconds_of("replay", longer, past) == pytest.approx(9)
    assert seconds_of("pruning", longer, past) is None
    larger = {**SETTINGS, "model": {"name": "smollm2", "layers": None}}
    assert seconds_of("adaptation", larger, past) is None
    assert seconds_of("pool", larger, past) == pytest.approx(50)


def test_results_lie_in_the_folder_of_the_task(tmp_path):
    """Those of a run of an earlier version, as in the test above, in the folder of the run."""
    folder = tmp_path / "train" / "a"
    finished(folder / "abr", SETTINGS, {"pool": 50.0, "adaptation": 80.0, "replay": 9.0}, learnt=False)
    (folder / "abr" / "config.yaml").rename(folder / "config.yaml")
    (folder / "checkpoints").mkdir()
    past = past_steps(tmp_path)
    assert {one.step for one in past} == {"pool", "adaptation", "replay"}
    assert seconds_of("adaptation", SETTINGS, past) == pytest.approx(80)


def test_the_steps_of_several_tasks_were_taken_once_but_the_replay(tmp_path):
    folder = tmp_path / "train" / "both"
    settings = {**SETTINGS, "budget": {**SETTINGS["budget"], "episodes": {"abr": 100, "cjs": 20}}}
    for task, replay in (("abr", 9.0), ("cjs", 30.0)):
        finished(folder / task, settings, {"pool": 60.0, "adaptation": 80.0, "replay": replay}, learnt=False)
        (folder / task / "config.yaml").rename(folder / "config.yaml")  # that of the run
    (folder / "checkpoints").mkdir()
    past = past_steps(tmp_path)
    assert seconds_of("replay", settings, past) == pytest.approx(39)
    assert seconds_of("adaptation", settings, past) == pytest.approx(80)
    twice = {**settings, "budget": {**SETTINGS["budget"], "episodes": {"abr": 200, "cjs": 40}}}
    assert seconds_of("pool", twice, past) == pytest.approx(120)


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (12600, "3.5 h")])
def test_a_duration_is_said_in_one_unit(seconds, text):
    assert duration(seconds) == text


def test_jobs_side_by_side_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [threads_of_a_job(jobs) for jobs in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # said by Ray, or by the user
    assert threads_of_a_job(1) == 3
