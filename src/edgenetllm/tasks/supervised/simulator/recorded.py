"""Recorded data as an environment: an episode is a question with its right answer, and one decision is one answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.observation import Array, Observation

Scored = tuple[npt.NDArray[np.float64], dict[str, Array]]
"""The rewards of answers, (episodes,), and what is recorded of them, name -> (episodes, ...)."""


class Recorded:
    """Questions (n, ...) by name, and their answers (n, ...); a seed is the index of a question, taken modulo n.

    All episodes end with their only decision, so that a whole test set is one forward pass. `score(given, right)` says what
    answers are worth. `choices` is the number of classes of answers that are integers (n,), None for real numbers.
    """

    def __init__(
        self,
        inputs: Mapping[str, Array],
        answers: Array,
        score: Callable[[Array, Array], Scored],
        choices: int | None = None,
    ) -> None:
        self.inputs, self.right, self.score, self.choices = dict(inputs), answers, score, choices

    def reset(self, seeds: npt.NDArray[np.int64]) -> Observation:
        self.rows = np.asarray(seeds) % len(self.right)
        self.done = np.zeros(len(self.rows), bool)
        return self.observe()

    def observe(self) -> Observation:
        """The questions, name -> (episodes, ...)."""
        return {name: column[self.rows] for name, column in self.inputs.items()}

    def answers(self) -> Array:
        return self.right[self.rows]

    def step(self, actions: Array) -> tuple[Observation, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        reward, self.recorded = self.score(actions, self.answers())
        reward = np.where(self.done, 0.0, reward)
        self.done = np.ones(len(self.rows), bool)
        return self.observe(), reward, self.done

    def sample(self, rng: np.random.Generator) -> Array:
        """The answers to other questions, drawn at random."""
        return self.right[rng.integers(len(self.right), size=len(self.rows))]

    def record(self) -> Mapping[str, Array]:
        return self.recorded
