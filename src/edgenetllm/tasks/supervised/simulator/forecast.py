"""Forecasts of recorded series: an answer predicts the next rows; where it is shorter than the horizon, another follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.observation import Array, Observation
from edgenetllm.tasks.randomness import uniform
from edgenetllm.tasks.supervised.angles import difference, wrapped
from edgenetllm.tasks.supervised.data.windows import Windows
from edgenetllm.tasks.supervised.simulator.recorded import Recorded, Scored


@dataclass(frozen=True)
class Form:
    """The form of a forecast: which columns are seen and predicted, and how many rows of them.

    `answer_rows` are predicted at once. Where that is less than the `horizon`, an answer becomes the end of the history of
    the next one: the true answers when `truth` acts (teacher forcing), a model's own when it does.
    """

    inputs: tuple[str, ...]
    answers: tuple[str, ...]
    periods: tuple[float, ...]  # of the inputs, 0 for a column that is no angle
    answer_periods: tuple[float, ...]
    history: int  # rows that a network sees
    horizon: int
    answer_rows: int

    @property
    def answers_per_question(self) -> int:
        """Decisions until the horizon is reached."""
        return -(-self.horizon // self.answer_rows)

    @property
    def rows_ahead(self) -> int:
        """Rows that a question needs behind its history: whole answers."""
        return self.answers_per_question * self.answer_rows

    @property
    def seen_again(self) -> tuple[int, ...]:
        """For each answer column its place among the inputs, -1 where it is none of them."""
        return tuple(self.inputs.index(name) if name in self.inputs else -1 for name in self.answers)


class Forecast(Recorded):
    """Questions of `windows`: `history` (episodes, history rows, inputs) to answers (episodes, answer rows, answers).

    With `long_history` rows, more than a network sees, there is also a column of that name. `columns` are the names of all
    columns of the windows. `noise` disturbs what becomes history, in units of `change` (answers,): teacher forcing with
    noise. The reward is minus the mean absolute error in units of `unit` (answers,), over the rows of the horizon.
    """

    def __init__(
        self,
        windows: Windows,
        columns: Sequence[str],
        form: Form,
        unit: Sequence[float],
        *,
        long_history: int | None = None,
        noise: float = 0.0,
        change: Sequence[float] = (),
    ) -> None:
        self.form, self.noise, self.unit, self.change = form, noise, np.asarray(unit), np.asarray(change)
        inputs, answers = ([columns.index(name) for name in names] for names in (form.inputs, form.answers))
        self.longest = max(form.history, long_history or 0)
        self.history = windows.before(self.longest)[..., inputs]
        self.periods, self.answer_periods = np.asarray(form.periods), np.asarray(form.answer_periods)
        super().__init__({}, windows.after(form.rows_ahead)[..., answers], self._score)

    def reset(self, seeds: npt.NDArray[np.int64]) -> Observation:
        self.seeds, self.answered = np.asarray(seeds), 0
        self.rows = self.seeds % len(self.right)
        self.seen = self.history[self.rows]
        return self.observe()

    def observe(self) -> Observation:
        history = self.seen[:, -self.form.history :]
        return (
            {"history": history}
            if self.longest == self.form.history
            else {"history": history, "long_history": self.seen}
        )

    def answers(self) -> Array:
        first = min(self.answered, self.form.answers_per_question - 1) * self.form.answer_rows
        return self.right[self.rows, first : first + self.form.answer_rows]

    def step(self, actions: Array) -> tuple[Observation, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        ended = self.answered >= self.form.answers_per_question
        reward, self.recorded = self._score(actions, self.answers())
        if not ended:
            self.answered += 1
            if self.answered < self.form.answers_per_question:
                self._remember(np.asarray(actions, np.float64))
        done = np.full(len(self.rows), self.answered >= self.form.answers_per_question)
        return self.observe(), np.zeros(len(self.rows)) if ended else reward, done

    def sample(self, rng: np.random.Generator) -> Array:
        others = self.right[rng.integers(len(self.right), size=len(self.rows))]
        return others[:, : self.form.answer_rows]

    def _remember(self, given: Array) -> None:
        """The answer becomes the end of the history; inputs that it does not predict stay as they were last."""
        if self.noise:
            given = given + self.noise * self.change * _normal(self.seeds, self.answered, given.shape[1:])
        rows = np.repeat(self.seen[:, -1:], given.shape[1], axis=1)
        for number, place in enumerate(self.form.seen_again):
            if place >= 0:
                rows[..., place] = given[..., number]
        self.seen = np.concatenate([self.seen, wrapped(rows, self.periods)], axis=1)[:, -self.longest :]

    def details(self, given: Array, right: Array) -> dict[str, Array]:
        """More of each row of an answer that a task records, name -> (episodes, rows); 0 beyond the horizon."""
        return {}

    def _score(self, given: Array, right: Array) -> Scored:
        """Rewards sum to minus the mean error over the horizon; rows beyond it count for nothing."""
        first = min(self.answered, self.form.answers_per_question - 1) * self.form.answer_rows
        counted = np.arange(first, first + self.form.answer_rows) < self.form.horizon
        error = np.abs(difference(np.asarray(given, np.float64), right, self.answer_periods)) * counted[:, None]
        reward = -(error / self.unit).sum(axis=(1, 2)) / (self.form.horizon * len(self.form.answers))
        counts = {"rows": np.full(len(error), counted.sum()), "columns": np.full(len(error), error.shape[2])}
        record = {"answer": right, "error": error, **counts}
        more = {name: value * counted for name, value in self.details(np.asarray(given, np.float64), right).items()}
        return reward, {**record, **more, "history": self.seen[:, -self.form.history :].copy()}


def _normal(seeds: npt.NDArray[np.int64], step: int, shape: tuple[int, ...]) -> Array:
    """Standard normal numbers (episodes, *shape), a function of seed and step (Box and Muller)."""
    size = int(np.prod(shape))
    counters = 2 * (step * size + np.arange(size, dtype=np.int64))
    first, second = uniform(seeds[:, None], counters), uniform(seeds[:, None], counters + 1)
    return (np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)).reshape(len(seeds), *shape)
