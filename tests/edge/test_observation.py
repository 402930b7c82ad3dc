"""An observation that is not understood is refused before anything changes in the session."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from variants import TASKS, export, make

import edgenetllm.edge as edge
from edgenetllm.edge.policy import Policy
from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.columns import JOB
from edgenetllm.tasks.observation import Ragged

GOOD = {
    "last_quality": 1, "buffer_s": 4.0, "throughput_mbps": 1.7, "delay_s": 0.6,
    "next_sizes_mb": [0.15, 0.4, 0.6, 0.9, 1.4, 2.1], "chunks_left": 47,
}  # fmt: skip
WRONG = {
    "missing": ({"buffer_s": None}, "buffer_s is missing"),
    "unknown": ({"bufer_s": 1.0}, "'bufer_s' is unknown"),
    "shape": ({"next_sizes_mb": [1.0, 2.0]}, r"next_sizes_mb has shape \(2,\), not \(6,\) or \(1, 6\)"),
    "text": ({"buffer_s": "4"}, "buffer_s is '4', not numbers"),
    "none": ({"buffer_s": [None]}, "not numbers"),
    "ragged": ({"next_sizes_mb": [[1.0], [1.0, 2.0]]}, "not numbers"),
    "nan": ({"delay_s": float("nan")}, "delay_s holds NaN"),
    "infinite": ({"next_sizes_mb": [1.0] * 5 + [float("inf")]}, "next_sizes_mb holds NaN, infinity"),
    "huge": ({"throughput_mbps": 1e300}, "throughput_mbps holds"),
    "level": ({"last_quality": 6}, "last_quality is 6, and must be from 0 to 5"),
    "negative": ({"last_quality": -1}, "last_quality is -1"),
    "fraction": ({"last_quality": 1.5}, "last_quality is no whole number"),
    "rows": ({"buffer_s": Ragged(np.zeros((1, 1)), np.array([1]))}, "not numbers"),
}


@pytest.fixture(scope="module")
def abr(tmp_path_factory) -> Policy:
    return edge.load(export(make(TASKS["fused"]()), tmp_path_factory.mktemp("abr") / "bundle"))


@pytest.fixture(scope="module")
def cjs(tmp_path_factory) -> Policy:
    return edge.load(export(make(TASKS["pointer"]()), tmp_path_factory.mktemp("cjs") / "bundle"))


def changed(observation: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**observation, **changes}.items() if value is not None}


@pytest.mark.parametrize("case", sorted(WRONG))
def test_what_is_not_understood_is_refused_and_leaves_the_session_as_it_was(abr, case):
    changes, message = WRONG[case]
    session, untouched = abr.start(), abr.start()
    for one in (session, untouched):
        one.decide(GOOD)
        one.observe(1.0)
    with pytest.raises(UserError, match=message):
        session.decide(changed(GOOD, changes))
    with pytest.raises(UserError, match="reward"):
        session.observe(float("nan"))
    later = {**GOOD, "buffer_s": 9.0, "last_quality": 3}
    decided = [np.float64(one.decide(later)) for one in (session, untouched)]
    assert decided[0] == decided[1]
    assert session.return_to_go == untouched.return_to_go
    for ours, other in zip(session.context.taken, untouched.context.taken, strict=True):
        np.testing.assert_array_equal(ours, other)


def test_whole_numbers_may_be_floats_and_other_names_of_the_environment_may_be_there(abr):
    plain = abr.start().decide(GOOD)
    assert abr.start().decide({**GOOD, "last_quality": np.float32(1), "rebuffer_s": 0.0, "video": 0}) == plain
    assert abr.start().decide({name: np.array([value]) for name, value in GOOD.items()}) == plain


def test_rewards_have_the_shape_of_the_session(abr):
    session = abr.start(3)
    for wrong in (1.0, [1.0, 2.0], "a", [1.0, 2.0, float("inf")]):
        with pytest.raises(UserError, match="reward"):
            session.observe(wrong)
    session.observe([1, 2, 3])
    np.testing.assert_array_equal(session.return_to_go, [39.0, 38.0, 37.0])


def test_a_session_ends_with_its_episode(abr):
    session = abr.start()
    for _ in range(47):
        session.decide(GOOD)
        session.observe(0.0)
    with pytest.raises(UserError, match="taken the 47 decisions that an episode has: start another one"):
        session.decide(GOOD)


@pytest.mark.parametrize("episodes", [0, -1, 2.0, True])
def test_a_number_of_episodes_is_at_least_one(abr, episodes):
    with pytest.raises(UserError, match="number of episodes"):
        abr.start(episodes)


def graph() -> dict[str, Any]:
    environment, rng = TASKS["pointer"]().environment("train"), np.random.default_rng(0)
    observation = environment.reset(np.arange(2))
    for _ in range(5):
        observation, _, _ = environment.step(environment.sample(rng))
    assert (observation["edges"].count > 0).all()
    return observation


def with_cell(rows: Ragged, row: int, column: int, value: float) -> Ragged:
    values = rows.values.copy()
    values[1, row, column] = value
    return replace(rows, values=values)


def test_graphs_that_do_not_fit_together_are_refused(cjs):
    good = graph()
    cjs.start(2).decide(good)
    stages, jobs, edges = (good[name] for name in ("stages", "jobs", "edges"))
    most = int(stages.count[1])
    cases: list[tuple[dict[str, Any], str]] = [
        ({"stages": with_cell(stages, 0, JOB, 40)}, r"episode 1.*column job names a row"),
        ({"stages": with_cell(stages, 0, JOB, 0.5)}, r"column job names a row"),
        ({"stages": with_cell(stages, 0, 4, -2)}, r"negative"),
        ({"jobs": with_cell(jobs, 0, 2, -1)}, r"negative"),
        ({"stages": with_cell(stages, 0, 5, np.nan)}, r"stages holds NaN"),
        ({"edges": with_cell(edges, 0, 1, most)}, r"edges: a parent or child"),
        ({"source_job": np.array([0, 30])}, r"source_job is a row"),
        ({"committable": good["executors"] + 1}, r"committable is more than executors"),
        ({"stages": stages.values}, r"stages of several episodes is a Ragged"),
        ({"stages": replace(stages, count=stages.count + 99)}, r"its count says"),
        ({"stages": replace(stages, count=stages.count[:1])}, r"count of stages"),
        ({"stages": replace(stages, values=stages.values[..., :3])}, r"stages has shape"),
    ]
    for changes, message in cases:
        with pytest.raises(UserError, match=message):
            cjs.start(2).decide({**good, **changes})


def test_a_bundle_and_an_observation_may_be_named_by_text(tmp_path: Path):
    folder = export(make(TASKS["history"]()), tmp_path / "bundle")
    session = edge.load(str(folder)).start()
    with pytest.raises(UserError, match="past_throughput_mbps is missing"):
        session.decide(GOOD)
    assert session.decide({**GOOD, "past_throughput_mbps": np.zeros(8), "past_delay_s": np.zeros(8)}) in range(6)
    with pytest.raises(UserError, match="mapping of names"):
        session.decide([1, 2])
