"""A rule evolved in the simulator: it starts as the teacher, sees what it says it sees, and gets better."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from edgenetllm.errors import UserError
from edgenetllm.hashed import store_file
from edgenetllm.tasks.cjs.columns import JOB_COLUMNS, STAGE_COLUMNS
from edgenetllm.tasks.cjs.expert import evolution
from edgenetllm.tasks.cjs.expert.evolution import Evolution, WideRule
from edgenetllm.tasks.cjs.policies.baselines import fair
from edgenetllm.tasks.cjs.policies.tuned import load_evolved
from edgenetllm.tasks.cjs.policies.wide_rule import JOB_FEATURES, STAGE_FEATURES, WIDE_WEIGHTS
from edgenetllm.tasks.cjs.task import CjsTask

SMALL = {"generations": 4, "population": 5, "jobs": 40, "validation_jobs": 40, "validate_every": 2}


def test_it_starts_as_the_teacher(cjs_task):
    teacher = cjs_task.teacher()
    seeds = np.arange(40)
    expected, decisions = cjs_task.completion_ms(teacher, seeds, "val")
    found, same = cjs_task.completion_ms(WideRule(teacher.weights), seeds, "val")
    np.testing.assert_array_equal(found, expected)
    assert decisions == same > 1000


def test_it_decides_as_its_features_say(workload):
    """Against the features written down with NumPy, at every decision of a few episodes, for random weights."""
    task = CjsTask("cjs", workload, "pointer", window=5, segment=16, validation=3, test=4)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=len(WIDE_WEIGHTS))
    rule, environment = WideRule(weights), task.environment("train")
    observation = environment.reset(np.arange(6))
    done, compared = np.zeros(6, bool), 0
    while not done.all():
        action = rule.act(observation)
        for n in np.flatnonzero(~done):
            assert tuple(action[n]) == slow_decision(observation, n, dict(zip(WIDE_WEIGHTS, weights, strict=True)))
            compared += 1
        observation, _, done = environment.step(environment.sample(rng))
    assert compared > 200


def slow_decision(observation, n, weights):
    stages = [
        dict(zip(STAGE_COLUMNS, row, strict=True))
        for row in observation["stages"].values[n, : observation["stages"].count[n]].astype(float)
    ]
    jobs = [
        dict(zip(JOB_COLUMNS, row, strict=True))
        for row in observation["jobs"].values[n, : observation["jobs"].count[n]].astype(float)
    ]
    offered, source, size = (int(observation[key][n]) for key in ("committable", "source_job", "executors"))
    total = max(sum(job["left_ms"] for job in jobs), 1.0)
    scores, rooms, schedulable = [], [], [stage for stage in stages if stage["schedulable"]]
    for stage in schedulable:
        number = int(stage["job"])
        job = jobs[number]
        left = max(job["left_ms"], 1.0)
        less = [o for k, o in enumerate(jobs) if (o["left_ms"], k) < (job["left_ms"], number)]
        demand = sum(s["demand"] for s in schedulable if s["job"] == number)
        of_job = dict(zip(JOB_FEATURES, (
            np.log(left / (total / len(jobs))), float(number == source), np.log(left / 1e5),
            np.log(max(job["path_ms"], 1.0) / left), np.log(len(jobs)), left / total, 1.0, len(less) / len(jobs),
            sum(o["left_ms"] for o in less) / total, np.log((job["age_ms"] + 1e4) / 1e5), job["supply"] / size,
            np.log(total / 1e6), np.log(left / 1e5) ** 2, offered / size, min(demand / size, 2.0),
        ), strict=True))  # fmt: skip
        of_stage = dict(zip(STAGE_FEATURES, (
            stage["ready"], stage["level"], np.log(1 + stage["demand"]), np.log(max(stage["rough_ms"], 1.0) / 1e3),
            stage["path_ms"] / max(job["path_ms"], 1.0), min(stage["demand"] / offered, 2.0),
            float(stage["recent_ms"] > 0), stage["whole_path_ms"] / max(job["work_ms"], 1.0),
        ), strict=True))  # fmt: skip
        cap = size * np.exp(min(0.0, sum(weights[f"cap_{name}"] * value for name, value in of_job.items())))
        room = cap - job["supply"] + (offered if number == source else 0)
        score = sum(weights[f"score_{name}"] * value for name, value in of_job.items())
        if room < 0.5:
            score -= weights["full"]
            room += cap * (np.exp(weights["over"]) - 1)
        scores.append(score + sum(weights[f"stage_{name}"] * value for name, value in of_stage.items()))
        rooms.append(room)
    best = int(np.argmax(scores))
    return best, min(max(1, int(np.floor(rooms[best] + 0.5))), offered, int(schedulable[best]["demand"]))


def test_an_interrupted_search_goes_on_to_the_same_rule(cjs_task, tmp_path, monkeypatch):
    whole, curve = Evolution(**SMALL).search(cjs_task, 3, tmp_path / "whole", progress=False)
    assert [row["iteration"] for row in curve] == [0, 2, 4]
    assert (np.diff([row["steps"] for row in curve]) > 0).all()
    at_once, _ = Evolution(**SMALL).search(cjs_task, 3, tmp_path / "whole", progress=False)
    assert at_once.identity() == whole.identity()
    kept = []

    def keep_and_stop(path, data):
        store_file(path, data)
        kept.append(path)
        if len(kept) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(evolution, "store_file", keep_and_stop)
        with pytest.raises(KeyboardInterrupt):
            Evolution(**SMALL).search(cjs_task, 3, tmp_path / "part", progress=False)
    shutil.copy(tmp_path / "part", tmp_path / "altered")  # without its hash: begun again, to the same end
    for name in ("altered", "part"):
        resumed, again = Evolution(**SMALL, workers=2).search(cjs_task, 3, tmp_path / name, progress=False)
        assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in curve]
        assert resumed.identity() == whole.identity()
    assert Evolution().load(whole.state_dict()).identity() == whole.identity()


@pytest.mark.slow
def test_it_beats_its_teacher_on_episodes_that_it_never_saw(cjs_task, tmp_path):
    options = Evolution(generations=20, population=10, jobs=1000, validation_jobs=4000, workers=2)
    rule, _ = options.search(cjs_task, 0, tmp_path / "unfinished", progress=False)
    seeds = 10_000 + np.arange(2000)
    ratio = cjs_task.completion_ms(rule, seeds, "val")[0] / cjs_task.completion_ms(cjs_task.teacher(), seeds, "val")[0]
    assert ratio.mean() + 2 * ratio.std() / np.sqrt(len(ratio)) < 1


def test_the_shipped_rule_is_a_start_that_needs_no_search(cjs_task, tmp_path):
    rule, curve = Evolution(start="evolved", generations=0, validation_jobs=40).search(
        cjs_task, 0, tmp_path / "unfinished", progress=False
    )
    assert [row["iteration"] for row in curve] == [0]
    np.testing.assert_array_equal(rule.weights, load_evolved(cjs_task.executors))


@pytest.mark.shared
@pytest.mark.parametrize("setting", ["default", "small", "unseen2"])
def test_the_shipped_rule_beats_the_tuned_one_on_tpch(tpch, setting):
    """On seeds far from those that it was evolved on."""
    task = CjsTask("cjs", replace(tpch, setting=setting), "pointer", window=5, segment=16, validation=1, test=1)
    seeds = 5_000_000 + np.arange(4000 // task.jobs)
    shipped = task.completion_ms(WideRule(load_evolved(task.executors)), seeds, "val")[0]
    ratio = shipped / task.completion_ms(task.teacher(), seeds, "val")[0]
    assert ratio.mean() + 2 * ratio.std() / np.sqrt(len(ratio)) < 0.995


def test_only_schedulers_are_evolved(cjs_task, tmp_path, monkeypatch):
    monkeypatch.setattr(CjsTask, "teacher", lambda self: fair())
    with pytest.raises(UserError, match="evolves rules of task=cjs"):
        Evolution(**SMALL).search(cjs_task, 0, tmp_path / "unfinished", progress=False)
