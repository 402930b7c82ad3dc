"""Observations of one decision, checked before anything is computed with them, as the columns that an encoder reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.common.edge import EdgeEncoder, Input
from edgenetllm.tasks.observation import Array, Ragged


class Reader:
    """The observations of a session, name by name, into arrays (episodes, ...) that are used again at the next decision.

    With `single`, a value may come without the dimension of episodes: a number, an array, the rows of a Ragged.
    """

    def __init__(self, encoder: EdgeEncoder, episodes: int, single: bool) -> None:
        self.encoder, self.episodes, self.single = encoder, episodes, single
        self.inputs = dict(encoder.inputs)
        plain = {name: one for name, one in self.inputs.items() if not one.ragged}
        self.ragged = {name: one for name, one in self.inputs.items() if one.ragged}
        integers = {name: one for name, one in plain.items() if one.integer}
        self.integers, views = _room(integers, episodes, np.dtype(np.int64))
        self.floats, others = _room(
            {n: one for n, one in plain.items() if not one.integer}, episodes, np.dtype(np.float32)
        )
        self.views = views | others
        self.low, self.high = (
            np.array([getattr(one, end) for name, one in integers.items() for _ in range(views[name].size)], np.int64)
            for end in ("low", "high")
        )
        # Shapes that a value may have, and whether it must be whole.
        self.plain = [(name, self.views[name], self._shapes(one), one.integer) for name, one in plain.items()]

    def read(self, observation: Mapping[str, Any]) -> dict[str, Array]:
        """The columns, checked. Raises UserError, naming what is wrong; the arrays are valid until the next call."""
        self._check_names(observation)
        with np.errstate(over="ignore"):  # what overflows float32 is refused below
            for name, view, shapes, whole in self.plain:
                value = as_array(observation[name], f"observation: {name}")
                if value.shape not in shapes:
                    raise UserError(f"observation: {name} has shape {value.shape}, not {_either(shapes)}")
                if whole and value.dtype.kind in "fu" and not _is_whole(value):
                    raise UserError(f"observation: {name} is no whole number")
                view[...] = value
        if not np.isfinite(self.floats).all():
            self._refuse_floats()
        if not ((self.integers >= self.low) & (self.integers <= self.high)).all():
            self._refuse_integers(observation)
        columns = dict(self.views)
        for name, one in self.ragged.items():
            columns[name], columns[f"{name}_count"] = self._rows(observation[name], name, one)
        self.encoder.check(columns)
        return columns

    def _check_names(self, observation: Mapping[str, Any]) -> None:
        if not isinstance(observation, Mapping):
            raise UserError(f"an observation is a mapping of names to values, not {type(observation).__name__}")
        for name in self.inputs:
            if name not in observation:
                raise UserError(f"observation: {name} is missing (it needs {', '.join(self.inputs)})")
        ignored = self.encoder.ignored
        if ignored is not None and len(observation) > len(self.inputs):
            for name in observation:
                if name not in self.inputs and name not in ignored:
                    raise UserError(f"observation: {name!r} is unknown (it needs {', '.join(self.inputs)})")

    def _shapes(self, one: Input) -> tuple[tuple[int, ...], ...]:
        batch = (self.episodes, *one.shape)
        return (one.shape, batch) if self.single else (batch,)

    def _rows(self, value: Any, name: str, one: Input) -> tuple[Array, Array]:
        """Rows (episodes, rows, ...) and their number (episodes,)."""
        at = f"observation: {name}"
        if isinstance(value, Ragged):
            values, count = as_array(value.values, at), as_array(value.count, at)
        elif self.single:
            rows = as_array(value, at)
            values = (rows if rows.size or rows.ndim > 1 else rows.reshape(0, *one.shape))[None]
            count = np.array([values.shape[1]])
        else:
            raise UserError(f"observation: {name} of several episodes is a Ragged, not {type(value).__name__}")
        if values.ndim != 2 + len(one.shape) or (values.shape[0], *values.shape[2:]) != (self.episodes, *one.shape):
            raise UserError(
                f"observation: {name} has shape {values.shape}, not ({self.episodes}, rows, {one.shape[0]})"
            )
        if count.shape != (self.episodes,) or count.dtype.kind not in "iu":
            raise UserError(
                f"observation: the count of {name} is {count.dtype} {count.shape}, not integers {(self.episodes,)}"
            )
        if not ((count >= 0) & (count <= values.shape[1])).all():
            raise UserError(f"observation: {name} has {values.shape[1]} rows, but its count says {count.tolist()[:3]}")
        if one.integer and values.dtype.kind in "fu" and not _is_whole(values):
            raise UserError(f"observation: {name} is no whole number")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, np.int64 if one.integer else np.float32)
        if not one.integer and not np.isfinite(values).all():
            raise UserError(f"observation: {name} holds NaN, infinity or a number beyond float32")
        return values, np.ascontiguousarray(count, np.int64)

    def _refuse_floats(self) -> None:
        for name, view, _, integer in self.plain:
            if not integer and not np.isfinite(view).all():
                raise UserError(f"observation: {name} holds NaN, infinity or a number beyond float32")

    def _refuse_integers(self, observation: Mapping[str, Any]) -> None:
        for name, view, _, integer in self.plain:
            one = self.inputs[name]
            if integer and not ((view >= one.low) & (view <= one.high)).all():
                wrong = view[(view < one.low) | (view > one.high)].flat[0]
                raise UserError(f"observation: {name} is {wrong}, and must be from {one.low} to {one.high}")


def _room(inputs: Mapping[str, Input], episodes: int, dtype: np.dtype[Any]) -> tuple[Array, dict[str, Array]]:
    """One vector for all these inputs, and the part of each as (episodes, ...)."""
    shapes = {name: (episodes, *one.shape) for name, one in inputs.items()}
    ends = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes.values())]).tolist()
    room = np.zeros(ends[-1], dtype)
    parts = zip(shapes.items(), ends[:-1], ends[1:], strict=True)
    return room, {name: room[start:end].reshape(shape) for (name, shape), start, end in parts}


def as_array(value: Any, name: str) -> Array:
    """Any numbers as an array. Raises UserError for what is none."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # RuntimeError: a tensor that learns
        array = np.empty(0, object)
    if array.dtype.kind not in "iufb":
        raise UserError(f"{name} is {value!r:.60}, not numbers")
    return array


def _is_whole(values: Array) -> bool:
    """True where all numbers are integers that float64 and int64 both represent."""
    return bool(((np.abs(values) <= 2**53) & (values == np.floor(values))).all())


def _either(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " or ".join(map(str, shapes))
