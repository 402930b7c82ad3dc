"""`task.clock=real` and `wait`: against the oracle in plain Python, and what must hold of any trace."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import oracle
import pytest

from edgenetllm.tasks.abr.data.synthetic import generate
from edgenetllm.tasks.abr.policies.optimum import solve
from edgenetllm.tasks.abr.simulator.core import play
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import FORMS

CLOCKS = ("public", "real")
COUNT = 12


@pytest.fixture(scope="module")
def plain():
    """Traces as lists, for the oracle."""
    return [(trace.time_s.tolist(), trace.mbps.tolist()) for trace in generate(COUNT, 320, seed=7)]


@pytest.fixture(scope="module")
def sessions(video):
    """Actions (12, chunks) and seconds waited before each chunk (12, chunks), none before chunk 0."""
    rng = np.random.default_rng(3)
    actions = rng.integers(0, 6, (COUNT, video.shape[1]))
    actions[:, 0] = 0
    waits = rng.choice([0.0, 0.05, 0.4, 7.0], (COUNT, video.shape[1]), p=[0.2, 0.4, 0.3, 0.1])
    waits[:, 0] = 0
    return actions, waits


def environment_of(traces, video, clock, **options):
    return AbrEnvironment(traces, video, FORMS["lin"], random_start=False, clock=clock, **options)


def played(environment, actions, waits):
    """Rewards, and each column of the record, (episodes, decisions)."""
    environment.reset(np.arange(len(actions)))
    rewards, records = [], []
    for chunk in range(1, actions.shape[1]):
        if waits is not None:
            environment.wait(waits[:, chunk])
        rewards.append(environment.step(actions[:, chunk])[1])
        records.append(environment.record())
    return np.stack(rewards, 1), {name: np.stack([one[name] for one in records], 1) for name in records[0]}


@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("clock", CLOCKS)
def test_environment_equals_the_oracle(clock, waiting, traces, video, plain, sessions):
    actions, waits = sessions
    rewards, record = played(environment_of(traces, video, clock), actions, waits if waiting else None)
    for number, (time_s, mbps) in enumerate(plain):
        rows = np.array(
            oracle.play(
                time_s, mbps, video.tolist(), actions[number].tolist(), int(traces.starts[number]),
                real=clock == "real", waits=waits[number] if waiting else None,
            )
        )[1:]  # fmt: skip
        np.testing.assert_allclose(record["delay_s"][number], rows[:, 0] / 1000, rtol=0, atol=1e-9)
        np.testing.assert_allclose(record["buffer_s"][number], rows[:, 2], rtol=0, atol=1e-9)
        np.testing.assert_allclose(record["rebuffer_s"][number], rows[:, 3], rtol=0, atol=1e-9)
        expected = FORMS["lin"].reward(actions[number, 1:], actions[number, :-1], rows[:, 3])
        np.testing.assert_allclose(rewards[number], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("clock", CLOCKS)
def test_one_episode_equals_the_oracle(clock, video, plain, sessions):
    for number, (time_s, mbps) in enumerate(plain[:4]):
        chunks = play(np.array(time_s), np.array(mbps), video, sessions[0][number], 5, clock=clock)
        rows = oracle.play(time_s, mbps, video.tolist(), sessions[0][number].tolist(), 5, real=clock == "real")
        np.testing.assert_allclose(np.column_stack(chunks), rows, rtol=0, atol=1e-9)


def test_waiting_no_time_changes_no_bit(traces, video, sessions):
    actions, waits = sessions
    never = played(environment_of(traces, video, "public"), actions, None)
    nothing = played(environment_of(traces, video, "public"), actions, np.zeros_like(waits))
    np.testing.assert_array_equal(never[0], nothing[0])
    for name in never[1]:
        np.testing.assert_array_equal(never[1][name], nothing[1][name])


@pytest.mark.parametrize("noise", [False, True])
def test_a_real_clock_loses_no_time(noise, traces, video, sessions):
    """The trace has moved by exactly the time that the session took; under the public clock it lags by the round trips."""
    actions, waits = sessions
    lags = {}
    for clock in CLOCKS:
        environment = environment_of(traces, video, clock, noise=noise)
        environment.reset(np.arange(COUNT))
        for chunk in range(1, actions.shape[1]):
            environment.wait(waits[:, chunk])
            environment.step(actions[:, chunk])
        moved = environment._state.clock_s - traces.time_s[traces.offsets[:-1] + traces.starts - 1]
        length = np.array([traces.time_s[end - 1] for end in traces.offsets[1:]])
        elapsed = environment.record()["clock_s"]
        lags[clock] = (elapsed - moved + 1e-6) % length - 1e-6  # the trace starts again at time 0
    np.testing.assert_allclose(lags["real"], 0, atol=1e-6)
    if not noise:
        np.testing.assert_allclose(lags["public"], 0.08 * video.shape[1], atol=1e-6)


@pytest.mark.parametrize("clock", CLOCKS)
def test_more_delay_is_never_better_with_the_same_actions(clock, traces, video):
    """Twelve chunks: the buffer never gets full, whose sleep of half seconds can otherwise begin earlier after a delay."""
    rng = np.random.default_rng(11)
    actions = np.c_[np.zeros(COUNT, int), rng.integers(0, 6, (COUNT, 11))]
    short = video[:, :12]
    totals = []
    for seconds in (0.0, 0.02, 0.1, 0.5, 2.0, 8.0):
        waits = np.full(actions.shape, seconds)
        rewards, record = played(environment_of(traces, short, clock), actions, waits)
        totals.append((rewards.sum(1), record["rebuffer_s"].sum(1)))
    assert all((later[0] <= before[0] + 1e-9).all() for before, later in pairwise(totals))
    assert all((later[1] >= before[1] - 1e-9).all() for before, later in pairwise(totals))
    assert (totals[-1][1] > totals[0][1] + 10).all()


def test_clones_wait_for_themselves(traces, video):
    environment = environment_of(traces, video, "real")
    environment.reset(np.arange(3))
    environment.wait(np.array([0.0, 1.0, 30.0]))
    twin = environment.clone()
    joined = AbrEnvironment.together([environment.clone(np.array([2])), environment.clone(np.array([0]))])
    twin.wait(np.full(3, 9.0))
    action = np.array([1, 1, 1])
    rebuffer_s = environment.step(action)[0]["rebuffer_s"]
    assert rebuffer_s[2] > 20
    assert (twin.step(action)[0]["rebuffer_s"] > rebuffer_s).all()
    np.testing.assert_array_equal(joined.step(action[:2])[0]["rebuffer_s"], rebuffer_s[[2, 0]])


def test_optimum_of_a_real_clock_is_what_trying_all_actions_finds(plain, video):
    """Four decisions, all 6^4 of them, on six traces; the clock changes some of their best rewards."""
    plans = np.array(np.meshgrid(*[range(6)] * 4, indexing="ij")).reshape(4, -1).T
    short, changed = video[:, :5], 0
    for time_s, mbps in (map(np.array, trace) for trace in plain[:6]):
        rewards = []
        for plan in plans:
            actions = np.r_[0, plan]
            rebuffer_s = play(time_s, mbps, short, actions, 9, clock="real").rebuffer_s
            rewards.append(FORMS["lin"].reward(actions[1:], actions[:-1], rebuffer_s[1:]).mean())
        best = solve(time_s, mbps, short, 9, clock="real")
        assert max(rewards) <= best.upper_bound + 1e-9
        assert best.mean_reward == pytest.approx(max(rewards), abs=1e-3)
        changed += best.mean_reward != solve(time_s, mbps, short, 9).mean_reward
    assert changed > 0


def test_the_clock_is_part_of_the_identity_of_the_data(task):
    real = replace(task, clock="real")
    assert real.data_hash() != task.data_hash()
    assert real.environment("test").clock == "real"
    assert any("clock is real" in note for note in real.notes())
    assert not any("clock" in note for note in task.notes())


@pytest.mark.parametrize("seconds", [[-1.0, 0, 0], [np.nan, 0, 0], [np.inf, 0, 0], [0.0]])
def test_impossible_waits_are_refused(seconds, traces, video):
    environment = environment_of(traces, video, "real")
    environment.reset(np.arange(3))
    with pytest.raises(ValueError, match="finite seconds"):
        environment.wait(np.array(seconds))
