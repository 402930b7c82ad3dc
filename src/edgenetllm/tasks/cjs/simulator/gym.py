"""One scheduling episode as a Gymnasium environment; registered as `EdgeNetLLM/Cjs-v0`."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

import edgenetllm.tasks.registration  # noqa: F401  so that Gymnasium knows its name
from edgenetllm.tasks.cjs.columns import JOB_COLUMNS, STAGE_COLUMNS
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.simulator.environment import CjsEnvironment
from edgenetllm.tasks.cjs.simulator.profiles import tabulate
from edgenetllm.tasks.task import Observation, Ragged

Graph = dict[str, Any]


class CjsGym(gym.Env[Graph, npt.NDArray[np.int64]]):
    """Observation: the dictionary of `observation.py`, with a row per stage, job and edge. Action (2,): index in the list of
    schedulable stages or -1, and executors. Neither has a largest size; `most_stages` only bounds the action space.

    With `fold` every action of that space is legal: an index beyond the list counts on from its start, and more executors
    than are left to hand out stand for all of them.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  as gymnasium declares it

    def __init__(self, environment: CjsEnvironment, most_stages: int = 1000, fold: bool = False) -> None:
        self.environment, self.fold = environment, fold
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
        self._observation = _graph(self.environment.reset(np.array([episode])))
        return self._observation, {"episode": episode}

    def step(self, action: npt.NDArray[np.int64]) -> tuple[Graph, float, bool, bool, dict[str, Any]]:
        """Raises ValueError for an action that the state does not allow, unless it is folded."""
        action = np.asarray(action)
        if self.fold:
            schedulable = int(self.environment.state.meta["schedulable"][0])
            stage = action[0] % schedulable if action[0] >= 0 and schedulable else -1
            action = np.array([stage, min(action[1], self._observation["committable"])])
        observation, reward, done = self.environment.step(action[None])
        self._observation = _graph(observation)
        return self._observation, float(reward[0]), bool(done[0]), False, _single(self.environment.record())


def _graph(observation: Observation) -> Graph:
    """The only episode of an observation, in the types of `observation_space`."""
    values = _single(observation)
    counts = {name: np.int64(values[name]) for name in ("committable", "executors")}
    return {**values, **counts, "source_job": np.asarray(values["source_job"])}


def _single(values: Observation | Any) -> Graph:
    """The only episode of each entry, without its padding."""
    return {
        name: value.values[0, : value.count[0]] if isinstance(value, Ragged) else value[0]
        for name, value in values.items()
    }


def generated(seed: int = 0, setting: str = "small", most_stages: int = 1000, fold: bool = True) -> CjsGym:
    """Episodes with generated job profiles in one of the settings of `data=synthetic_dags`: no file is needed.

    `seed` fixes the profiles; the seed of `reset` draws the jobs that arrive.
    """
    data = SyntheticDags(name="synthetic_dags", setting=setting, seed=seed)
    cluster = data.cluster()
    environment = CjsEnvironment(
        lambda episode: cluster.mix.draw(episode, data), tabulate(data.profiles()), cluster.rules
    )
    return CjsGym(environment, most_stages, fold)
