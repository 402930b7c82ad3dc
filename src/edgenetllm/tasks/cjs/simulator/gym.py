"""One scheduling episode as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.cjs.simulator.environment import CjsEnvironment
from edgenetllm.tasks.cjs.simulator.observation import JOB_COLUMNS, STAGE_COLUMNS
from edgenetllm.tasks.task import Observation, Ragged

Graph = dict[str, Any]


class CjsGym(gym.Env[Graph, npt.NDArray[np.int64]]):
    """Observation: the dictionary of `observation.py`, with a row per stage, job and edge. Action (2,): index in the list of
    schedulable stages or -1, and executors. Neither has a largest size; `most_stages` only bounds the action space."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  as gymnasium declares it

    def __init__(self, environment: CjsEnvironment, most_stages: int = 1000) -> None:
        self.environment = environment
        executors = environment.rules.executors
        self.action_space = gym.spaces.MultiDiscrete([1 + most_stages, executors], start=[-1, 1])

        def rows(columns: int, high: float = np.inf, kind: Any = np.float32) -> gym.spaces.Sequence:
            return gym.spaces.Sequence(gym.spaces.Box(0, high, (columns,), kind), stack=True)

        self.observation_space = gym.spaces.Dict(
            {
                "stages": rows(len(STAGE_COLUMNS)),
                "jobs": rows(len(JOB_COLUMNS)),
                "edges": rows(2, 2**31 - 1, np.int32),
                "committable": gym.spaces.Discrete(1 + executors),
                "source_job": gym.spaces.Box(-1, 2**31 - 1, (), np.int32),
                "executors": gym.spaces.Discrete(1 + executors),
            }
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Graph, dict[str, Any]]:
        """`options={"episode": n}` plays that seed of the environment; otherwise it is drawn from `seed`."""
        super().reset(seed=seed)
        episode = (options or {}).get("episode", int(self.np_random.integers(2**31)))
        return _single(self.environment.reset(np.array([episode]))), {"episode": episode}

    def step(self, action: npt.NDArray[np.int64]) -> tuple[Graph, float, bool, bool, dict[str, Any]]:
        """Raises ValueError for an action that the state does not allow."""
        observation, reward, done = self.environment.step(np.asarray(action)[None])
        return _single(observation), float(reward[0]), bool(done[0]), False, _single(self.environment.record())


def _single(values: Observation | Any) -> Graph:
    """The only episode of each entry, without its padding."""
    return {
        name: value.values[0, : value.count[0]] if isinstance(value, Ragged) else value[0]
        for name, value in values.items()
    }
