"""The policy that gives the right answers, where an environment knows them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError
from edgenetllm.tasks.common.heuristic import Heuristic
from edgenetllm.tasks.observation import Array, Observation
from edgenetllm.tasks.task import Environment, LabelledEnvironment


class Truth(Heuristic):
    """The right answers: what a model that learns from recorded data imitates. It plays only by `experience.rollout`."""

    name = "truth"

    def answer(self, environment: Environment) -> Array:
        """The answers of this environment, (episodes, ...). Raises UserError for one that knows none."""
        if not isinstance(environment, LabelledEnvironment):
            raise UserError(
                f"policy truth: {type(environment).__module__}.{type(environment).__qualname__} has no answers(): it is for "
                "environments that know the right answer"
            )
        return environment.answers()

    def act(self, observation: Observation) -> Array:
        """Refused: an observation does not hold the answers."""
        raise UserError(
            "policy truth: an observation does not hold the answers; it is played by experience.rollout.play"
        )

    @staticmethod
    def target(answers: Array, choices: int | None) -> npt.NDArray[np.float32]:
        """Answers (episodes, ...) as the heads learn from them: one-hot (episodes, choices), or real numbers.

        These are (episodes, n + 1): flat, and a 1 that says that there is an answer.
        """
        if choices is not None:
            return np.eye(choices, dtype=np.float32)[answers]
        flat = np.asarray(answers, np.float32).reshape(len(answers), -1)
        return np.concatenate([flat, np.ones((len(flat), 1), np.float32)], axis=1)
