"""Simulators that always end: whatever arrays, graphs, clusters and decisions they are given."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from contained import campaign, check
from played import SIZES

from edgenetllm.tasks.abr.data.traces import Trace, join
from edgenetllm.tasks.abr.policies.mpc import Mpc
from edgenetllm.tasks.abr.policies.optimum import solve
from edgenetllm.tasks.abr.simulator.core import Arrivals, Playback, play, step_many, wait_many
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import qoe_of
from edgenetllm.tasks.cjs.simulator.environment import CjsEnvironment
from edgenetllm.tasks.cjs.simulator.jobs import Job
from edgenetllm.tasks.cjs.simulator.profiles import Profile, Stage, tabulate
from edgenetllm.tasks.cjs.simulator.state import Rules, new_state

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, for infinite times and rates
CASES = int(os.environ.get("ROBUSTNESS_CASES", "20000"))
FEW = 250


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    """Compile before the first case: the time of a compilation is not that of an episode."""
    simulate(0, Path())
    for number in range(10):
        attempt_schedule(number, Path())


ODD = (0.0, -0.0, 1.0, -1.0, 1e-300, 5e-324, 1e300, np.inf, -np.inf, np.nan, 1e-9, 0.5, 100.0, 1e15)


def simulate(number: int, _: Path) -> str:
    """Any arrays at all: every function of the simulator returns, or raises ValueError."""
    chance = np.random.default_rng(number)
    rows = int(chance.integers(2, 40))

    def column(usual: np.ndarray) -> np.ndarray:
        odd = chance.choice(ODD, rows)
        return np.where(chance.random(rows) < chance.choice([0, 0.1, 0.9, 1]), odd, usual)

    time_s, mbps = column(np.arange(rows) * chance.choice([1.0, 1e-9, 1e9])), column(chance.random(rows))
    sizes = chance.choice([1, 1000, 10**6, 2**31, 2**62], (2, 6))
    ends = []
    for clock in ("public", "real"):
        for function in (lambda clock=clock: play(time_s, mbps, sizes, np.ones(6, np.int64), 1, 4.0, clock),
                         lambda clock=clock: solve(time_s, mbps, np.minimum(sizes, 2**40), 1, clock=clock)):  # fmt: skip
            try:
                function()
                ends.append("played")
            except ValueError:
                ends.append("refused")
    state = Playback(
        np.zeros(2, np.int64),
        np.full(2, rows),
        np.ones(2, np.int64),
        time_s[:2].copy(),
        np.zeros(2),
        np.zeros(2, np.int64),
    )
    arrivals, alive = Arrivals(*(np.zeros(2) for _ in Arrivals._fields)), np.ones(2, bool)
    for _ in range(3):
        wait_many(time_s, chance.choice(ODD, 2), alive, state, np.zeros(2))
        try:
            step_many(time_s, mbps, sizes[:, 0].copy(), chance.choice(ODD, 2), alive, state, arrivals)
        except ValueError:
            ends.append("refused")
    return " and ".join(sorted(set(ends)))


@pytest.mark.robustness
def test_the_simulator_ends_whatever_arrays_it_is_given():
    check(campaign("odd arrays", range(FEW), simulate))


@pytest.mark.slow
@pytest.mark.robustness
def test_the_simulator_ends_whatever_many_arrays_it_is_given():
    check(campaign("odd arrays", range(CASES), simulate))


@pytest.mark.parametrize(("row_s", "mbps"), [(1e-5, 1e-4), (1e-3, 12.0), (1e-5, 5.0)])
@pytest.mark.parametrize("clock", ["public", "real"])
def test_whole_turns_at_once_take_the_time_that_the_bandwidth_gives(row_s, mbps, clock):
    """A download of millions of rows: where the bandwidth is constant its time is known."""
    rows = 11
    time_s, sizes = np.arange(rows) * row_s, np.full((1, 2), 2**31)
    played = play(time_s, np.full(rows, mbps), sizes, np.zeros(2, np.int64), 1, 4.0, clock)
    np.testing.assert_allclose(played.delay_ms, 2**31 / (mbps * 1e6 / 8 * 0.95) * 1000 + 80, rtol=1e-9)


def test_whole_turns_at_once_end_in_the_right_row():
    """As many bytes as so many turns and a part of one carry, with bandwidths that differ from row to row."""
    time_s, mbps = np.array([0, 1e-5, 3e-5, 4e-5]), np.array([0, 8.0, 0.0, 16.0])
    turn_bytes = 0.95 * (1e6 * 1e-5 + 2e6 * 1e-5)
    turns, part = 30_000_000, 0.95 * (10 + 5)  # the first row, and a quarter of the third
    size = round(turns * turn_bytes + part)
    played = play(time_s, mbps, np.full((1, 1), size), np.zeros(1, np.int64), 1)
    exact_s = turns * 4e-5 + 3e-5 + (size - turns * turn_bytes - 9.5) / 0.95 / 2e6
    assert played.delay_ms[0] / 1000 - 0.08 == pytest.approx(exact_s, rel=1e-12)


def test_mpc_and_the_optimum_play_the_slowest_trace():
    trace = Trace("slow", np.arange(5) * 1e-5, np.full(5, 1e-4))
    environment = AbrEnvironment(join([trace], np.ones(1, np.int64)), SIZES, qoe_of("lin"), random_start=False)
    policy = Mpc("robustmpc", SIZES, qoe_of("lin"))
    policy.start(1)
    observation = environment.reset(np.zeros(1, np.int64))
    for _ in range(47):
        observation, reward, done = environment.step(policy.act(observation))
        assert np.isfinite(reward).all()
    assert done.all()
    assert np.isfinite(solve(trace.time_s, trace.mbps, SIZES[:, :12], 1).mean_reward)


def attempt_schedule(number: int, _: Path) -> None:
    """Any graph of stages, cluster and policy, also one that leaves executors idle or waits: the episode ends.

    The bound is that of events.py; a wait can make a decision void, once for each of its stages.
    """
    chance = random.Random(f"schedule {number}")
    stages = chance.randrange(1, 7)
    edges = tuple((i, j) for j in range(stages) for i in range(j) if chance.random() < chance.choice((0.2, 0.7)))
    durations = {
        "fresh": {},
        "first": {5: [chance.choice((0, 5e-324, 1, 1000, 1e9))]},
        "rest": {5: [chance.choice((0, 7))]},
    }
    profile = Profile("p", "p", tuple(Stage(chance.randrange(1, 6), **durations) for _ in range(stages)), edges)
    tables = tabulate([profile])
    jobs = sorted((Job(0, chance.choice((0.0, 1.0, 5000.0, 1e12))) for _ in range(chance.randrange(1, 5))),
                  key=lambda job: job.arrival_ms)  # fmt: skip
    executors = chance.randrange(1, 9)
    rules = Rules(executors, chance.choice((0.0, 2000.0, 1e15)), chance.choice((0.0, 1000.0)))
    environment = CjsEnvironment(lambda seed: jobs, tables, rules)
    environment.reset(np.zeros(1, np.int64))
    leaves, waits = chance.choice((0, 0.3, 0.9, 1)), chance.choice((0, 0, 0.5))
    tasks = sum(stage.tasks for stage in profile.stages) * len(jobs)
    most = (executors + 1) * (len(jobs) + 2 * tasks) * (1 if not waits else 1 + stages * len(jobs))
    generator = np.random.default_rng(number)
    for _ in range(most + 1):
        actions = environment.sample(generator)
        if chance.random() < leaves:
            actions[:, 0] = -1
        if chance.random() < waits:
            environment.wait(np.array([chance.choice((1e-9, 0.5, 3.0, 1e6))]))
        _, _, done = environment.step(actions)
        if done.all():
            break
    assert done.all()
    assert np.isfinite(environment.state.jobs["completed_ms"]).all()


@pytest.mark.robustness
def test_the_cluster_ends_whatever_is_decided():
    check(campaign("schedules", range(FEW), attempt_schedule))


@pytest.mark.slow
@pytest.mark.robustness
def test_the_cluster_ends_whatever_is_decided_in_many_episodes():
    check(campaign("schedules", range(CASES), attempt_schedule))


def test_tables_with_a_stage_that_never_ends_are_refused():
    tables = tabulate([Profile("p", "p", (Stage(1, {}, {5: [1]}, {}),), ())])
    tables.stages["tasks"] = 0
    with pytest.raises(ValueError, match="at least one task"):
        new_state([[Job(0, 0.0)]], np.zeros(1, np.int64), tables, Rules(1))
