"""Baselines against the values of the public protocol, trace by trace, and against brute force."""

import itertools

import numpy as np
import pytest

from edgenetllm.experience.rollout import play
from edgenetllm.tasks.abr.data.datasets import Public, public_starts
from edgenetllm.tasks.abr.data.readers import read_folder
from edgenetllm.tasks.abr.data.traces import join
from edgenetllm.tasks.abr.data.videos import load_video
from edgenetllm.tasks.abr.policies.baselines import Bba, Bola, Fixed, RateBased
from edgenetllm.tasks.abr.policies.mpc import Mpc
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import FORMS

LIN = FORMS["lin"]


def policy_of(name, sizes):
    return {
        "bba": lambda: Bba(),
        "robustMPC_clean": lambda: Mpc("robustmpc", sizes, LIN, 1, 1),
        "fastMPC_clean": lambda: Mpc("fastmpc", sizes, LIN, 1, 0),
    }[name]()


@pytest.mark.shared
@pytest.mark.parametrize("name", ["bba", "robustMPC_clean", "fastMPC_clean"])
@pytest.mark.parametrize(
    ("set_name", "video"), [("fcc-test", "video1"), ("fcc-valid", "video1"), ("fcc-test", "video2")]
)
def test_equals_the_public_protocol_trace_by_trace(shared, golden_json, name, set_name, video):
    expected = golden_json("baselines_per_trace")[f"{set_name}|{video}"]
    traces = read_folder(shared / "data" / "abr" / set_name.replace("-", "/"))
    sizes = load_video(video, shared / "data")
    environment = AbrEnvironment(join(traces, np.array(expected["start_ptr"])), sizes, LIN, random_start=False)
    rewards = play(environment, np.arange(len(traces)), policy_of(name, sizes)).reward.mean(1)
    np.testing.assert_allclose(rewards, expected[name], rtol=0, atol=1e-9)
    assert (rewards <= np.array(expected["optimum_upper"]) + 1e-6).all()


@pytest.mark.shared
@pytest.mark.parametrize("set_name", ["fcc-valid", "fcc-train"])
def test_start_pointers_follow_the_public_rule(shared, golden_json, set_name):
    traces = read_folder(shared / "data" / "abr" / set_name.replace("-", "/"))
    assert public_starts(traces).tolist() == golden_json("start_pointers")[set_name]["ptrs"]


@pytest.mark.shared
def test_start_pointers_of_fcc_test(shared, golden_json):
    data = Public(
        name="fcc", data_dir=shared / "data", train=[], test="abr/fcc/test", validation=0, seed=0, video="video1"
    )
    test = data.splits().test
    pointers = golden_json("start_pointers")["fcc-test"]
    assert [f"fcc-test_{trace.name}" for trace in test] == pointers["names"]
    assert data.starts(test, "test").tolist() == pointers["ptrs"]


@pytest.mark.parametrize("chunk", [1, 20, 44, 47])
def test_mpc_tries_every_plan(video, chunk):
    """Brute force over all plans of up to five chunks, in plain Python."""
    rng = np.random.default_rng(chunk)
    observation = {
        "throughput_mbps": rng.uniform(0.3, 5, 4),
        "chunk_index": np.full(4, chunk),
        "video": np.zeros(4, int),
        "last_quality": rng.integers(0, 6, 4),
        "buffer_s": rng.uniform(4, 25, 4),
    }
    policy = Mpc("robustmpc", video, LIN, 0.8, 1)
    policy.start(4)
    policy.act(observation)
    for episode in range(4):
        bytes_per_s = 0.8 * observation["throughput_mbps"][episode] * 1e6 / 8
        best = np.full(6, -np.inf)
        for plan in itertools.product(range(6), repeat=min(5, 48 - chunk)):
            value, buffer, last = 0.0, observation["buffer_s"][episode], observation["last_quality"][episode]
            for ahead, level in enumerate(plan):
                needs = video[level, chunk + ahead] / bytes_per_s
                value += LIN.quality[level] - 4.3 * max(needs - buffer, 0) - abs(LIN.quality[level] - LIN.quality[last])
                buffer, last = max(buffer - needs, 0) + 4, level
            best[plan[0]] = max(best[plan[0]], value)
        np.testing.assert_allclose(policy.values[episode], best, atol=1e-9)


def test_mpc_targets_are_probabilities_that_agree_with_the_action(environment, video):
    policy = Mpc("robustmpc", video, LIN, 0.6, 0.5, temperature=0.1)
    seen = environment.reset(np.arange(12))
    policy.start(12)
    for _ in range(47):
        actions = policy.act(seen)
        target = policy.targets(seen)
        assert target.shape == (12, 6)
        np.testing.assert_allclose(target.sum(1), 1, rtol=1e-5)
        np.testing.assert_array_equal(target[np.arange(12), actions], target.max(1))
        seen, _, _ = environment.step(actions)


@pytest.mark.parametrize("make", [lambda v: Mpc("m", v, LIN), lambda v: RateBased(), lambda v: Bola(), lambda v: Bba()])
def test_start_forgets_the_last_episodes_and_each_episode_is_alone(environment, video, make):
    policy = make(video)
    first = play(environment, np.arange(12), policy).action
    again = play(environment, np.arange(12), policy).action
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(play(environment, np.array([5]), policy).action[0], first[5])
    assert ((first >= 0) & (first < 6)).all()


def test_bba_is_linear_between_reservoir_and_cushion():
    buffer = np.array([0.0, 4.999, 5.0, 7.0, 12.999, 13.0, 14.999, 15.0, 60.0])
    assert Bba().act({"buffer_s": buffer}).tolist() == [0, 0, 0, 1, 3, 4, 4, 5, 5]


def test_rate_based_takes_the_harmonic_mean():
    policy = RateBased()
    policy.start(1)
    assert policy.act({"throughput_mbps": np.array([3.0])}).tolist() == [4]
    assert policy.act({"throughput_mbps": np.array([0.6])}).tolist() == [1]  # 2 / (1/3 + 1/0.6) = 1.0


def test_bola_asks_for_more_with_a_fuller_buffer(video):
    sizes = np.tile(video[:, 5] / 1e6, (60, 1))
    levels = Bola().act({"buffer_s": np.arange(60.0), "next_sizes_mb": sizes})
    assert (np.diff(levels) >= 0).all()
    assert levels[0] == 0


def test_fixed(environment):
    assert (play(environment, np.arange(3), Fixed(2)).action == 2).all()
