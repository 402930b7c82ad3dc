"""Inputs that were read, played to their end: every figure is finite, and the episode is over in time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.abr.data.ladder import Ladder
from edgenetllm.tasks.abr.data.synthetic import generate_video
from edgenetllm.tasks.abr.data.traces import Trace, join
from edgenetllm.tasks.abr.data.videos import Videos
from edgenetllm.tasks.abr.policies.bba import Bba
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import qoe_of
from edgenetllm.tasks.cjs.policies.baselines import Random, fair
from edgenetllm.tasks.cjs.policies.rollout import run_rule
from edgenetllm.tasks.cjs.simulator.environment import CjsEnvironment
from edgenetllm.tasks.cjs.simulator.jobs import Job
from edgenetllm.tasks.cjs.simulator.profiles import Profile, tabulate
from edgenetllm.tasks.cjs.simulator.state import Rules, new_state

SIZES = generate_video()


def trace_plays(trace: Trace, sizes: npt.NDArray[np.int64] = SIZES, ladder: Ladder | None = None) -> None:
    """An episode from the first and from the last row, under both clocks, by the buffer alone."""
    videos = Videos(sizes[None], ladder=ladder) if ladder else Videos(sizes[None])
    traces = join([trace, trace], np.array([1, len(trace.time_s) - 1]))
    for clock in ("public", "real"):
        environment = AbrEnvironment(traces, videos, qoe_of("lin", videos.ladder), random_start=False, clock=clock)
        policy = Bba(levels=videos.ladder.levels)
        policy.start(2)
        observation, done = environment.reset(np.arange(2)), False
        for _ in range(min(sizes.shape[1], 60) - 1):
            observation, reward, done = environment.step(policy.act(observation))
            assert np.isfinite(reward).all()
        assert all(np.isfinite(value).all() for value in observation.values())
        assert done.all() or sizes.shape[1] > 60


def profile_plays(profile: Profile) -> None:
    """Four jobs on five executors under a compiled rule, and at random step by step, with and without moving time."""
    tables = tabulate([profile])
    jobs = [Job(0, 0.0), Job(0, 0.0), Job(0, 1000.0), Job(0, 1e6)]
    for moving_ms in (0.0, 2000.0):
        rules = Rules(5, moving_ms, 1000.0)
        jct = run_rule(new_state([jobs], np.zeros(1, np.int64), tables, rules), tables, fair().kind, fair().weights)
        assert np.isfinite(jct).all()
        environment = CjsEnvironment(lambda seed: jobs, tables, rules)
        policy, total = Random(), 0.0
        policy.start(1)
        observation = environment.reset(np.zeros(1, np.int64))
        for _ in range(20_000):
            observation, reward, done = environment.step(policy.act(observation))
            total += reward[0]
            if done.all():
                break
        assert done.all()
        jct_ms = environment.state.jobs["completed_ms"] - environment.state.jobs["arrival_ms"]
        assert np.isfinite(jct_ms).all()
        assert np.isfinite(total)
