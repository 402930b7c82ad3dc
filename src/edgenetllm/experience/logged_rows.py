"""Logged rows become decisions of episodes, each checked as a task says; docs/logs.md has the form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from edgenetllm.errors import UserError
from edgenetllm.experience.decisions import EPISODE, NEEDED, OBSERVATION
from edgenetllm.experience.log_files import Row
from edgenetllm.tasks.task import Array

LARGEST = 3e38  # of a reward: float32


class LogForm(Protocol):
    """A task's description of its decisions."""

    task: str
    inputs: Mapping[str, bool]  # name of each input of the observation -> True for rows of any number
    most_steps: int | None  # of an episode; None: any
    relative: bool  # returns are relative to those of a reference
    data: str  # hash of the test episodes

    def read(self, observation: Mapping[str, Any]) -> dict[str, Array]:
        """The inputs of one decision as arrays, without a dimension of episodes. Raises UserError that names the input."""
        ...

    def action(self, action: Any, observation: Mapping[str, Array]) -> Array:
        """The action as an array. Raises UserError for one that the task does not have, or not for this observation."""
        ...


@dataclass
class LoggedDecision:
    """A decision, its observation without a dimension of episodes."""

    where: str
    observation: dict[str, Array]
    action: Array
    reward: float


@dataclass
class LoggedEpisode:
    """One episode as it was logged: step -> decision, None where something of it is not known."""

    steps: dict[int, LoggedDecision | None] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    last: int | None = None  # the step that ended the episode
    marked: bool = False  # the log says of this episode where it ended
    reference: float | None = None

    def usable(self) -> list[LoggedDecision]:
        """The decisions from the first one up to where something is missing or not known."""
        used: list[LoggedDecision] = []
        while (decision := self.steps.get(len(used))) is not None:
            used.append(decision)
        return used


def add_row(row: Row, form: LogForm, logged: dict[tuple[Any, ...], LoggedEpisode], others: Counter[str]) -> None:
    """Check one row and add it to its episode in `logged`; a row of another task is counted in `others`.

    Raises UserError, naming file, line, column and reason, for what is not understood.
    """
    # Columns that every row has, and whose decision it is.
    values = row.values
    for name in NEEDED:
        if name not in values:
            raise UserError(f"{row.where}: column {name} is missing (a decision has {', '.join(NEEDED)})")
    if values["task"] != form.task:
        others[f"{values['task']!s:.60}"] += 1
        return
    key = tuple(values.get(name) for name in EPISODE)
    if key[1:] == (None, None):
        raise UserError(
            f"{row.where}: column session, or episode, is missing: it says which episode a decision belongs to"
        )
    if not all(isinstance(one, str | int | None) for one in key):
        raise UserError(f"{row.where}: columns {', '.join(EPISODE)} must be texts or whole numbers, not {key}")
    if form.data and values.get("data") == form.data:
        raise UserError(
            f"{row.where}: column data: the decision was replayed on the test episodes of this very run, and what learns "
            "from it cannot be tested on them: choose logs of other episodes, or other data"
        )
    # Its place in the episode.
    step = values["step"]
    if type(step) is not int or step < 0 or (form.most_steps is not None and step >= form.most_steps):
        limit = "" if form.most_steps is None else f" below {form.most_steps}"
        raise UserError(f"{row.where}: column step is {step!r:.40}, not a whole number from 0 on{limit}")
    episode = logged.setdefault(key, LoggedEpisode())
    if step in episode.places:
        raise UserError(f"{row.where}: column step: {step} was logged before, in {episode.places[step]}")
    episode.places[step] = row.where
    _add_marks(row, step, episode)
    episode.steps[step] = _decision(row, form)


def _add_marks(row: Row, step: int, episode: LoggedEpisode) -> None:
    """Note what the row says of the whole episode: its end, and the return of the reference."""
    done, reference = row.values.get("done"), row.values.get("reference")
    if done is not None:
        if not isinstance(done, bool):
            raise UserError(f"{row.where}: column done is {done!r:.40}, neither true nor false")
        episode.marked = True
        if done:
            if episode.last is not None:
                raise UserError(
                    f"{row.where}: column done: the episode ended before, in {episode.places[episode.last]}"
                )
            episode.last = step
    if reference is not None:
        value = _number(row, "reference", reference)
        if value == 0 or episode.reference not in (None, value):
            raise UserError(
                f"{row.where}: column reference is {reference!r:.40}: it is one number of an episode, and not 0"
            )
        episode.reference = value


def _decision(row: Row, form: LogForm) -> LoggedDecision | None:
    """The decision of a row, checked; None where its observation or its reward is not known."""
    # The observation.
    values = {name: value for name, value in row.values.items() if name.startswith(OBSERVATION)}
    missing = [name for name in form.inputs if f"{OBSERVATION}{name}" not in values]
    if missing:
        raise UserError(
            f"{row.where}: column {OBSERVATION}{missing[0]} is missing (task {form.task} needs "
            f"{', '.join(OBSERVATION + name for name in form.inputs)})"
        )
    if any(_unknown(values[f"{OBSERVATION}{name}"]) for name in form.inputs):
        return None
    try:
        observation = form.read({name.removeprefix(OBSERVATION): value for name, value in values.items()})
    except UserError as error:
        raise UserError(f"{row.where}: column observation: {str(error).removeprefix('observation: ')}") from None
    # The action and the reward.
    try:
        action = form.action(row.values["action"], observation)
    except UserError as error:
        raise UserError(f"{row.where}: column action: {error}") from None
    if row.values["reward"] is None:
        return None
    return LoggedDecision(row.where, observation, action, _number(row, "reward", row.values["reward"]))


def _unknown(value: Any) -> bool:
    """True for null, and for a list with a null in it."""
    return value is None or (isinstance(value, list) and any(map(_unknown, value)))


def _number(row: Row, column: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:  # nor NaN
        raise UserError(
            f"{row.where}: column {column} is {value!r:.40}, not a finite number (null where it is not known)"
        )
    return float(value)
