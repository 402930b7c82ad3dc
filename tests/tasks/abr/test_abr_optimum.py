"""The offline optimum against every plan there is, and against the golden optima of real traces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgenetllm.experience import rollout
from edgenetllm.tasks.abr.data.readers import read_folder
from edgenetllm.tasks.abr.data.synthetic import generate
from edgenetllm.tasks.abr.data.traces import join
from edgenetllm.tasks.abr.data.videos import load_video
from edgenetllm.tasks.abr.policies.optimum import FIRST_LEVEL, SLACK, solve
from edgenetllm.tasks.abr.simulator.core import play
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import BITRATES_MBPS, FORMS, QoE


def earned(time_s, mbps, sizes, actions, start, qoe) -> float:
    played = play(time_s, mbps, sizes, actions, start)
    return float(qoe.reward(actions[1:], actions[:-1], played.rebuffer_s[1:]).mean())


def brute_force(time_s, mbps, sizes, start, qoe) -> float:
    levels, chunks = sizes.shape
    plans = itertools.product(range(levels), repeat=chunks - 1)
    return max(earned(time_s, mbps, sizes, np.array([FIRST_LEVEL, *plan]), start, qoe) for plan in plans)


@pytest.mark.parametrize("form", ["lin", "log", "hd"])
@pytest.mark.parametrize("seed", range(6))
def test_no_plan_earns_more(form, seed):
    rng = np.random.default_rng(seed)
    time_s = np.cumsum(rng.uniform(0.2, 3, 60))
    mbps = rng.gamma(0.7, 2, 60)
    sizes = np.rint(BITRATES_MBPS[:, None] * 5e5 * rng.uniform(0.7, 1.3, (6, 6))).astype(np.int64)[:, :6]
    found = solve(time_s, mbps, sizes, 3, FORMS[form])
    best = brute_force(time_s, mbps, sizes, 3, FORMS[form])
    assert best - SLACK <= found.mean_reward <= best + 1e-12
    assert best <= found.upper_bound <= best + 2 * SLACK
    assert found.mean_reward == earned(time_s, mbps, sizes, found.actions, 3, FORMS[form])


@pytest.mark.slow
@pytest.mark.parametrize("outage", [14, 15])
def test_a_full_buffer_sleeps(outage):
    """Two levels, so that all plans of an episode that fills the buffer and then meets an outage can be tried."""
    two = QoE("two", np.array([1.0, 2.0]), 4.3)
    time_s = np.arange(120) * 1.0
    mbps = np.where(np.arange(120) < outage, 40.0, 0.05)
    sizes = np.array([[2.0e5] * 17, [8.0e5] * 17]).astype(np.int64)
    found = solve(time_s, mbps, sizes, 1, two)
    best = brute_force(time_s, mbps, sizes, 1, two)
    assert found.mean_reward <= best + 1e-12
    assert best <= found.upper_bound + 1e-12
    assert best - found.mean_reward < 0.01


def test_no_baseline_exceeds_it(task):
    bound = task.bounds("test")["optimum"]["qoe"]
    for policy in task.baselines().values():
        episodes = rollout.play(task.environment("test"), task.seeds("test"), policy)
        qoe = task.summarise(episodes.record, episodes.reward, episodes.valid)["qoe"]
        assert (qoe <= bound + SLACK).all()


def test_its_actions_earn_in_the_environment_what_it_says(video):
    traces = generate(3, 320, seed=11)
    environment = AbrEnvironment(join(traces, np.array([1, 5, 9])), video, FORMS["lin"], random_start=False)
    found = [solve(trace.time_s, trace.mbps, video, start) for trace, start in zip(traces, (1, 5, 9), strict=True)]
    environment.reset(np.arange(3))
    rewards = [environment.step(np.array([best.actions[chunk] for best in found]))[1] for chunk in range(1, 48)]
    np.testing.assert_allclose(np.mean(rewards, 0), [best.mean_reward for best in found], atol=1e-12)


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("video", ["video1", "video2"])
def test_equals_the_golden_optima(shared, golden_json, video):
    expected = golden_json("baselines_per_trace")[f"fcc-test|{video}"]
    traces = read_folder(shared / "data" / "abr" / "fcc" / "test")
    sizes = load_video(video, shared / "data")
    for trace, start, low, high in zip(
        traces, expected["start_ptr"], expected["optimum"], expected["optimum_upper"], strict=True
    ):
        found = solve(trace.time_s, trace.mbps, sizes, start)
        assert low - 1e-6 <= found.mean_reward <= high + 1e-6
        assert found.upper_bound >= low - 1e-9
        assert found.upper_bound - found.mean_reward < 4e-3
