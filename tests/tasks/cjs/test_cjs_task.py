"""The task seen from outside: bounds, baselines, tuned constants, data identity, and errors that name what to correct."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.policies.baselines import fair
from edgenetllm.tasks.cjs.policies.bound import least_chain_ms, least_work_ms, srpt_ms
from edgenetllm.tasks.cjs.simulator.jobs import Job
from edgenetllm.tasks.cjs.simulator.settings import SETTINGS
from edgenetllm.tasks.cjs.task import CjsTask


def test_every_baseline_plays_and_none_beats_the_bound(cjs_task):
    bound = cjs_task.bounds("test")["lower_bound"]["jct_s"]
    means = {}
    for name, policy in cjs_task.baselines().items():
        episodes = play(cjs_task.environment("test"), cjs_task.seeds("test"), policy)
        summary = cjs_task.summarise(episodes.record, episodes.reward, episodes.valid)
        assert np.isfinite(summary["jct_s"]).all()
        assert (summary["jct_p95_s"] >= summary["jct_s"] * 0.5).all()
        means[name] = summary["jct_s"].mean()
    assert set(means) >= {"random", "fifo", "fair", "weighted_fair", "sjf_cp", "srpt_capped", "decima", "tuned_rule"}
    assert min(means.values()) > bound.mean()
    assert means["random"] == max(means.values())


def test_srpt_on_one_machine_equals_trying_every_schedule():
    """Integer lengths and unit time slots: brute force over who runs in each slot."""
    arrival, length = [0, 1, 2], [3, 1, 2]

    def best(time: int, left: tuple[int, ...]) -> int:
        if not any(left):
            return 0
        waiting = sum(1 for a, x in zip(arrival, left, strict=True) if a <= time and x)
        options = [j for j, x in enumerate(left) if x and arrival[j] <= time] or [-1]
        return waiting + min(best(time + 1, tuple(x - (k == j) for k, x in enumerate(left))) for j in options)

    assert srpt_ms(arrival, np.array(length, float)) * 3 == best(0, tuple(length))


def test_least_work_and_chain_by_hand(tables, workload):
    profile = workload.profiles()[5]
    shortest = [
        min(
            np.floor(np.mean(row) + 0.5)
            for wave in (stage.fresh, stage.first, stage.rest)
            for level, row in wave.items()
            if len(row) and level in (5, 10, 20, 40, 50, 60, 80, 100)
        )
        for stage in profile.stages
    ]
    assert least_work_ms(tables)[5] == sum(s.tasks * t for s, t in zip(profile.stages, shortest, strict=True))
    ways = [
        sum(shortest[k] for k in way)
        for size in range(1, len(shortest) + 1)
        for way in itertools.combinations(range(len(shortest)), size)
        if all(edge in profile.edges for edge in itertools.pairwise(way))
    ]
    assert least_chain_ms(tables)[5] == max(ways)


def test_constants_are_chosen_on_validation(cjs_task):
    rule = cjs_task._tuned["srpt_capped"]
    scores = {cap: cjs_task._validate(type(rule)("x", rule.kind, (cap, *rule.weights[1:]))) for cap in (0.2, 0.4, 1.0)}
    assert cjs_task._validate(rule) <= min(scores.values())
    assert cjs_task._validate(cjs_task._tuned["weighted_fair"]) <= cjs_task._validate(cjs_task.baselines()["fair"])


def test_the_data_hash_follows_setting_and_profiles(workload):
    def digest(**changes) -> str:
        return CjsTask("cjs", replace(workload, **changes), "pointer", 5, 16, 3, 4).data_hash()

    assert len({digest(), digest(seed=1), digest(executors=7), digest(rate_per_ms=1e-3), digest(jobs=5)}) == 5
    assert digest() == digest()


@pytest.mark.parametrize("load", [(1.0, 1.0), (0.5, 2.0)])
def test_return_to_go_is_relative_to_fair(load, cjs_task):
    task, seeds = replace(cjs_task, train_load=load), np.array([3, 4])
    fair = play(task.environment("train"), seeds, task.baselines()["fair"])
    np.testing.assert_allclose(task.reference_returns(seeds), fair.reward.sum(1), rtol=1e-9)


def test_training_episodes_can_be_busier_and_quieter(cjs_task):
    """The same jobs, each episode's arrivals closer or further by one factor; validation and test stay as they are."""
    task = replace(cjs_task, train_load=(0.5, 2.0))
    factors = []
    for seed in range(40):
        usual, drawn = (t.environment("train").draw(seed) for t in (cjs_task, task))
        assert [job.profile for job in usual] == [job.profile for job in drawn]
        ratios = [a.arrival_ms / b.arrival_ms for a, b in zip(usual[1:], drawn[1:], strict=True)]
        np.testing.assert_allclose(ratios, ratios[0])
        factors.append(ratios[0])
    assert 0.5 <= min(factors) < 0.7 < 1.5 < max(factors) <= 2.0
    assert abs(np.log(factors).mean()) < 0.25
    for split in ("val", "test"):
        assert task.environment(split).draw(3) == cjs_task.environment(split).draw(3)
    assert task.data_hash() != cjs_task.data_hash()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"setting": "huge"}, r"data\.setting=huge: there are tiny, small, default"),
        ({"sizes": ["3g"]}, r"data\.sizes=\['3g'\]: data=synthetic_dags has no 3g"),
    ],
)
def test_mistakes_are_named(change, message, workload):
    with pytest.raises(UserError, match=message):
        CjsTask("cjs", replace(workload, **change), "pointer", 5, 16, 3, 4).environment("test").reset(np.array([1]))


def test_a_recorded_workload_is_replayed(workload, tmp_path):
    path = tmp_path / "jobs.csv"
    path.write_text("query,size,arrival_ms\n3,2g,0\n5,100g,1500.5\n")

    def task() -> CjsTask:
        return CjsTask("cjs", replace(workload, recorded=path, jobs=2), "pointer", 5, 16, 3, 1)

    before = task()
    assert before.environment("test").draw(0) == [Job(2, 0.0), Job(6 * 22 + 4, 1500.5)]
    drawn = {split: before.environment(split).draw(0) for split in ("train", "val", "test")}
    assert drawn["train"] == drawn["val"] != drawn["test"]  # what is tested on is not learnt from
    digest = before.data_hash()
    path.write_text("query,size,arrival_ms\n3,2g,0\n5,100g,1600\n")
    assert task().data_hash() != digest
    path.write_text("query,size,arrival_ms\n3,2g,-4\n5,100g,1500.5\n")
    with pytest.raises(UserError, match=r"jobs\.csv, line 2: arrival_ms is -4"):
        task()


def recorded(path, count):
    """A list of `count` jobs, one a second."""
    path.write_text("query,size,arrival_ms\n" + "".join(f"{1 + n % 22},2g,{1000 * n}\n" for n in range(count)))
    return path


@pytest.mark.parametrize(
    ("typed", "played", "words"), [(None, 30, "all 30 jobs of"), (7, 7, "the first 7 of 30 jobs of")]
)
def test_a_recorded_list_is_played_whole_unless_jobs_are_typed(tmp_path, typed, played, words):
    data = SyntheticDags(
        name="synthetic_dags", setting="small", seed=0, jobs=typed, recorded=recorded(tmp_path / "j.csv", 30)
    )
    task = CjsTask("cjs", data, "pointer", 5, 16, 3, 2)
    drawn = {split: len(task.environment(split).draw(0)) for split in ("train", "val", "test")}
    assert drawn == {"train": typed or 20, "val": typed or 20, "test": played}
    assert task.max_steps == 30 * (typed or 20)  # the pool is collected as without the list
    assert words in task.describe_data()[0]
    assert len(task.notes()) == 1
    assert words in task.notes()[0]
    episodes = play(task.environment("test"), task.seeds("test"), fair())
    summary = task.summarise(episodes.record, episodes.reward, episodes.valid)
    mean_ms, _ = task.completion_ms(fair(), task.seeds("test"), "test")
    np.testing.assert_allclose(summary["jct_s"], mean_ms / 1e3)
    np.testing.assert_allclose(-episodes.reward.sum(1), mean_ms * played)  # every job counts
    without = CjsTask("cjs", replace(data, recorded=None), "pointer", 5, 16, 3, 2)
    np.testing.assert_array_equal(task.reference_returns(np.arange(3)), without.reference_returns(np.arange(3)))
    assert task.data_hash(("train", "val")) == without.data_hash(("train", "val"))
    assert task.data_hash() != without.data_hash()
    assert without.notes() == []


def test_more_jobs_than_a_list_has_are_refused(tmp_path):
    data = SyntheticDags(
        name="synthetic_dags", setting="small", seed=0, jobs=31, recorded=recorded(tmp_path / "j.csv", 30)
    )
    with pytest.raises(UserError, match=r"j\.csv has 30 jobs, fewer than data\.jobs=31"):
        CjsTask("cjs", data, "pointer", 5, 16, 3, 2)


@pytest.mark.shared
def test_a_list_of_60_jobs_plays_60():
    path = (
        Path(os.environ.get("EDGENETLLM_SHARED", Path(__file__).parents[4] / "shared")) / "cases" / "cjs" / "jobs60.csv"
    )
    if not path.is_file():
        pytest.skip("no cases: EDGENETLLM_SHARED names their folder")
    data = SyntheticDags(name="synthetic_dags", setting="small", seed=0, recorded=path)
    assert len(CjsTask("cjs", data, "pointer", 5, 16, 3, 2).environment("test").draw(0)) == 60


def test_the_published_settings():
    assert SETTINGS["default"].executors == 50
    assert SETTINGS["default"].mix.jobs == 200
    assert (SETTINGS["small"].executors, SETTINGS["small"].mix.jobs) == (10, 20)
    assert SETTINGS["default"].rules.moving_ms == 2000.0
