"""The columns of stored episodes, checked against each other before anything learns from them or is told of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.experience.rollout import Column
from edgenetllm.tasks.task import Array

LARGEST = 3e38  # of float32, with which networks compute
PLAYED = ("action", "reward", "valid")  # of every set of episodes


def take_columns(columns: Mapping[str, Array], kind: str, others: Mapping[str, tuple[str, int]]) -> dict[str, Column]:
    """The columns `KIND.name`, and those that are stored as `ragged.name` and `count.name`, by name, after a check of all.

    `others`: name -> kinds of numpy's types and number of dimensions (0: any) of the columns that there may be besides those
    that every set of episodes has. Raises UserError, naming the column, for one that is missing, unknown, of another type or
    shape, or that holds a number that is none.
    """
    # The columns that every set has.
    for name in PLAYED:
        if name not in columns:
            raise UserError(f"column {name} is missing")
    valid, reward, action = (columns[name] for name in ("valid", "reward", "action"))
    if valid.dtype != bool or valid.ndim != 2 or not valid.size:
        raise UserError(f"column valid is {valid.dtype} {valid.shape}, not truth values of episodes and steps")
    if reward.dtype != np.float64 or reward.shape != valid.shape:
        raise UserError(f"column reward is {reward.dtype} {reward.shape}, not numbers of {valid.shape}")
    if action.dtype not in (np.int64, np.float64) or action.shape[:2] != valid.shape:
        raise UserError(f"column action is {action.dtype} {action.shape}, not numbers of {valid.shape}")
    if not valid[:, 0].all() or (valid[:, 1:] & ~valid[:, :-1]).any():
        wrong = ~valid[:, 0] | (valid[:, 1:] & ~valid[:, :-1]).any(1)
        raise UserError(f"column valid: episode {int(wrong.argmax())} does not begin with its first step and end once")
    # The others, by their names.
    stored: dict[str, Column] = {}
    for key, values in columns.items():
        group, dot, name = key.partition(".")
        if dot and group in (kind, "ragged", "count"):
            if group == "ragged":
                stored[name] = _ragged(name, values, columns.get(f"count.{name}"), valid.shape)
            elif group == "count" and f"ragged.{name}" not in columns:
                raise UserError(f"column {key}: its rows, ragged.{name:.60}, are missing")
            elif group == kind:
                if values.shape[:2] != valid.shape:
                    raise UserError(f"column {key:.60} has the shape {values.shape}, and valid {valid.shape}")
                stored[name] = values
        elif key not in PLAYED:
            _check_other(key, values, others.get(key))
        check_finite(key, values)
    return stored


def check_finite(name: str, values: Array) -> None:
    """Raises UserError, naming column and place, where a number is NaN, infinite, or no float32."""
    if values.dtype.kind != "f":
        return
    wrong = ~(np.abs(values) < LARGEST)
    if wrong.any():
        place = np.argwhere(wrong)[0]
        raise UserError(f"column {name:.60}, {_place(place)}: {values[tuple(place)]} is no finite number of float32")


def _place(place: Array) -> str:
    words = [f"{what} {at}" for what, at in zip(("episode", "step"), place.tolist(), strict=False)]
    return ", ".join([*words, *(f"value {at}" for at in place.tolist()[2:3])])


def _ragged(name: str, values: Array, count: Array | None, shape: tuple[int, ...]) -> RaggedColumn:
    if count is None or count.dtype.kind not in "iu" or count.shape != shape or values.ndim < 1:
        raise UserError(f"column ragged.{name:.60}: its number of rows in each step, count.{name:.60}, is no {shape}")
    if (count < 0).any() or int(count.sum(dtype=np.float64)) != len(values):
        raise UserError(f"column count.{name:.60} counts other rows than the {len(values):,} of ragged.{name:.60}")
    return RaggedColumn(values, count)


def _check_other(key: str, values: Array, form: tuple[str, int] | None) -> None:
    if form is None:
        raise UserError(f"column {key:.60} is unknown")
    kinds, dimensions = form
    if values.dtype.kind not in kinds or (dimensions and values.ndim != dimensions):
        raise UserError(f"column {key} is {values.dtype} {values.shape}, which it cannot be")
