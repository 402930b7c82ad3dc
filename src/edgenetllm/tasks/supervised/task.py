"""Forecasting of recorded series as a task: everything that its data, its answers and its metrics do not change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, ConfigDict, Field, SkipValidation
from pydantic.dataclasses import dataclass

from edgenetllm.affects import Affects, Location
from edgenetllm.errors import UserError
from edgenetllm.option_types import NUMBER, Count, CountOrZero, FolderName, FolderPath
from edgenetllm.tasks.common.truth import Truth
from edgenetllm.tasks.supervised.data.windows import Windows, require_questions
from edgenetllm.tasks.supervised.networks.encoder import SeriesEncoder
from edgenetllm.tasks.supervised.networks.features import Statistics, statistics_of
from edgenetllm.tasks.supervised.networks.head import RowsHead
from edgenetllm.tasks.supervised.policies.learnt import LearntForecast
from edgenetllm.tasks.supervised.policies.rules import LinearRegression, Still, Velocity
from edgenetllm.tasks.supervised.simulator.forecast import Forecast, Form
from edgenetllm.tasks.task import SPLITS, Array, Encoder, Head, Policy, Split, Task


class SeriesData(Protocol):
    """A data set of recorded series: its columns, and the questions of each split."""

    name: str
    history: int  # rows before an answer
    horizon: int  # rows that are predicted

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of `windows`."""
        ...

    @property
    def inputs(self) -> list[str]:
        """Columns that are seen."""
        ...

    @property
    def answers(self) -> list[str]:
        """Columns that are predicted."""
        ...

    def windows(self, split: Split, ahead: int) -> Windows:
        """The questions of a split, with `ahead` rows of answers each."""
        ...

    def describe(self) -> list[str]:
        """Lines on the recordings, and on what was dropped against leaks."""
        ...


def _zero_for_null(value: Any) -> Any:
    return 0 if value is None else value


RowsOrAll = Annotated[CountOrZero, BeforeValidator(_zero_for_null, json_schema_input_type=CountOrZero | None)]


@dataclass(config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class ForecastTask(Task):
    """Options of every forecasting task; `data` is the object of the data group."""

    name: FolderName
    data: SkipValidation[SeriesData]
    cache_dir: Annotated[FolderPath, Location("cache_dir")]
    history: RowsOrAll = 0  # rows that a network sees; null: data.history
    # Rows of an answer; null: data.horizon. Where that is more, the next answer follows from this one.
    answer_rows: RowsOrAll = 0
    # Rows of a token; null: the whole history is one.
    patch: Annotated[Count | None, Affects("adaptation")] = None
    noise: Annotated[float, Field(ge=0, le=10), NUMBER] = (
        0.0  # of answers that become history in training, in usual changes
    )

    conditioned = False
    independent = True
    environment_class = Forecast

    def __post_init__(self) -> None:
        if not hasattr(self.data, "windows"):
            raise UserError(
                f"data={getattr(self.data, 'name', self.data)} is not for task={self.name}, which learns from recorded series"
            )
        self.history = self.history or self.data.history
        self.answer_rows = self.answer_rows or self.data.horizon
        if self.history > self.data.history:
            raise UserError(
                f"task.history={self.history}: a question of data={self.data.name} has data.history={self.data.history} rows"
            )
        if self.history % (self.patch or self.history):
            raise UserError(f"task.patch={self.patch}: task.history={self.history} rows are no whole number of patches")
        if self.answer_rows > self.data.horizon:
            raise UserError(
                f"task.answer_rows={self.answer_rows} is more than data.horizon={self.data.horizon}: choose at most that"
            )

    @property
    def max_steps(self) -> int:
        """Answers until the horizon is reached."""
        return self.form.answers_per_question

    @property
    def training_set(self) -> int:  # type: ignore[override]
        """The number of training questions."""
        return len(self._windows["train"].starts)

    @cached_property
    def form(self) -> Form:
        """The columns and rows that are seen and that are predicted."""
        inputs, answers = tuple(self.data.inputs), tuple(self.data.answers)
        return Form(
            inputs,
            answers,
            self.periods(inputs),
            self.periods(answers),
            self.history,
            self.data.horizon,
            self.answer_rows,
        )

    def periods(self, columns: tuple[str, ...]) -> tuple[float, ...]:
        """The period of each column that is an angle, 0 for others."""
        return (0.0,) * len(columns)

    @property
    def unit(self) -> tuple[float, ...]:
        """The size of an error of each answer column that counts as 1: here what a step changes on average in training."""
        windows = self._windows["train"]
        moves = np.abs(np.diff(windows.before(2), axis=1)).mean((0, 1))
        sizes = [float(moves[self.data.columns.index(name)]) for name in self.form.answers]
        for name, size in zip(self.form.answers, sizes, strict=True):
            if not size > 0:
                raise UserError(
                    f"data={self.data.name}: the column {name} never changes in training: there is nothing to predict"
                )
        return tuple(sizes)

    def data_hash(self, splits: Sequence[Split] = SPLITS) -> str:
        digest = hashlib.sha256(repr((self.form, self.noise, self.data.history)).encode())
        for split in splits:
            digest.update(self._windows[split].sha256().encode())
        return digest.hexdigest()

    def environment(self, split: Split) -> Forecast:
        train = split == "train"
        return self.environment_class(
            self._windows[split],
            self.data.columns,
            self.form,
            self._unit,
            long_history=self.data.history,
            noise=self.noise if train else 0.0,
            change=self._statistics.change.mean(0) if train and self.noise else (),
        )

    def seeds(self, split: Split) -> npt.NDArray[np.int64]:
        return np.arange(len(self._windows[split].starts), dtype=np.int64)

    def episode_names(self, split: Split) -> list[str]:
        return self._windows[split].names

    def describe_data(self) -> list[str]:
        counts = ", ".join(f"{len(self._windows[split].starts)} {split}" for split in SPLITS)
        seen, predicted = (len(columns) for columns in (self.form.inputs, self.form.answers))
        form = f"{self.data.history} rows of {seen} columns to {self.data.horizon} of {predicted}"
        return [f"data: {self.data.name}, {form}; questions: {counts}", *self.data.describe()]

    def notes(self) -> list[str]:
        note = "questions of one recording overlap: intervals take them as independent, and are too narrow for that"
        return [note]

    def baselines(self) -> dict[str, Policy]:
        form = self.form
        policies: list[Policy] = [self._lstm("lstm")]
        if all(place >= 0 for place in form.seen_again):
            rules = (Still, Velocity, LinearRegression)
            policies = [rule(form.answer_rows, form.seen_again, form.answer_periods) for rule in rules] + policies
        return {policy.name: policy for policy in policies}

    def teacher(self) -> Truth:
        """The right answers."""
        return Truth()

    def yardstick(self) -> Policy:
        """The first baseline: the right answers have no error to measure against."""
        return next(iter(self.baselines().values()))

    def tuned_as(self, other: Task) -> Policy | None:
        """The small network as it learns from the training questions of `other`."""
        if not isinstance(other, ForecastTask) or (other.form.inputs, other.form.answers) != (
            self.form.inputs,
            self.form.answers,
        ):
            return None
        return other._lstm("lstm_of_run")

    def fallbacks(self) -> Mapping[str, dict[str, Any]]:
        """The last row again and again, where answers are among what is seen."""
        form = self.form
        if any(place < 0 for place in form.seen_again):
            return {}
        still = {"rows": form.answer_rows, "places": list(form.seen_again), "periods": list(form.answer_periods)}
        return {"still": {"kind": "series_still", **still}}

    def encoder(self, width: int) -> Encoder:
        return SeriesEncoder(width, self.form, self.patch or self.history, self._statistics)

    def head(self, width: int) -> Head:
        return RowsHead(width, self.form, self._statistics, self._unit)

    def errors(self, record: Mapping[str, Any]) -> npt.NDArray[np.float64]:
        """The mean absolute error of each answer column over the horizon, (episodes, answers)."""
        error: Array = record["error"]
        return np.asarray(error.sum((1, 2)) / record["rows"].sum(1)[:, None])

    def _lstm(self, name: str) -> LearntForecast:
        learnt_from = self.data_hash(("train", "val"))
        return LearntForecast(
            name,
            learnt_from,
            self.environment,
            lambda: self._statistics,
            self.form,
            self._unit,
            self.cache_dir / "baselines",
        )

    @cached_property
    def _unit(self) -> tuple[float, ...]:
        return self.unit

    @cached_property
    def _statistics(self) -> Statistics:
        return statistics_of(self._windows["train"], self.data.columns, self.form)

    @cached_property
    def _windows(self) -> dict[Split, Windows]:
        ahead, history = self.form.rows_ahead, self.data.history
        return {
            split: require_questions(self.data.windows(split, ahead), split, self.data.name, history, ahead)
            for split in SPLITS
        }
