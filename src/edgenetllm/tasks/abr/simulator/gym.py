"""One streaming session as a Gymnasium environment; registered as `EdgeNetLLM/Abr-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import edgenetllm.tasks.registration  # noqa: F401  so that Gymnasium knows its name
from edgenetllm.tasks.abr.data.ladder import PUBLIC
from edgenetllm.tasks.abr.data.synthetic import generate, generate_video
from edgenetllm.tasks.abr.data.traces import join
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.abr.simulator.qoe import QoEName, qoe_of
from edgenetllm.tasks.task import Observation

NAMES = ("last_quality", "buffer_s", "throughput_mbps", "delay_s", "next_sizes_mb", "chunks_left")


class AbrGym(gym.Env[npt.NDArray[np.float32], np.int64]):
    """Observation (5 + levels,): last level, buffer s, throughput Mbps, delay s, next sizes MB (levels,), chunks left."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  as gymnasium declares it

    def __init__(self, environment: AbrEnvironment) -> None:
        self.environment = environment
        self.action_space = gym.spaces.Discrete(environment.levels)
        self.observation_space = gym.spaces.Box(0, np.inf, (len(NAMES) - 1 + environment.levels,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """`options={"episode": n}` plays that seed of the environment; otherwise it is drawn from `seed`."""
        super().reset(seed=seed)
        highest = 2**31 if self.environment.random_start else len(self.environment.traces)
        episode = (options or {}).get("episode", int(self.np_random.integers(highest)))
        return _flat(self.environment.reset(np.array([episode]))), {"episode": episode}

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        observation, reward, done = self.environment.step(np.array([action]))
        record = {name: value[0] for name, value in self.environment.record().items()}
        return _flat(observation), float(reward[0]), bool(done[0]), False, record


def _flat(observation: Observation) -> npt.NDArray[np.float32]:
    return np.concatenate([np.atleast_1d(observation[name][0]) for name in NAMES]).astype(np.float32)


def generated(seed: int = 0, traces: int = 100, seconds: int = 320, qoe: QoEName = "lin") -> AbrGym:
    """Sessions with a generated video on generated traces of so many seconds: no file is needed.

    `seed` fixes the traces; the seed of `reset` draws one of them, and where the session starts in it.
    """
    made = generate(traces, seconds, seed)
    starts = np.ones(len(made), np.int64)  # not used: the start is drawn
    return AbrGym(AbrEnvironment(join(made, starts), generate_video(), qoe_of(qoe, PUBLIC), random_start=True))
