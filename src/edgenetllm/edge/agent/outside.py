"""Is an observation like those that the bundle was trained on? Ranges of its numbers, and one distance from their mean.

The numbers of an observation are its features: each number of an input, and of an input with rows their count and each
column's mean and largest; all as sign(x) log(1 + |x|), so that a factor counts where numbers are large. An observation is
outside where a feature is beyond its range, or where the features together are too far from their mean (the root mean square
of the features after they were made independent and of variance 1: a Mahalanobis distance). `calibrate_guard.py` finds all
of this on the experience pool; it lies in the manifest, `extra["guard"][task]`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError
from edgenetllm.tasks.common.edge import Columns, Input

Features = npt.NDArray[np.float64]


def feature_names(inputs: Mapping[str, Input]) -> list[str]:
    """The name of each feature, in order: those of plain inputs first."""
    names: list[str] = []
    for name, one in inputs.items():
        if not one.ragged:
            names += [name] if not one.shape else [f"{name}[{k}]" for k in range(int(np.prod(one.shape)))]
    for name, one in inputs.items():
        if one.ragged:
            names.append(f"rows of {name}")
        if one.ragged and not one.integer:  # integers are numbers of rows
            names += [f"{kind} of {name}[{k}]" for kind in ("mean", "largest") for k in range(int(np.prod(one.shape)))]
    return names


def features_of(columns: Columns, inputs: Mapping[str, Input]) -> Features:
    """The features of one observation, (features,), from its columns (1, ...)."""
    plain = [columns[name].ravel() for name, one in inputs.items() if not one.ragged]
    values = np.concatenate(plain, dtype=np.float64) if plain else np.empty(0)
    parts = [np.sign(values) * np.log1p(np.abs(values))]
    for name, one in inputs.items():
        if not one.ragged:
            continue
        count = int(columns[f"{name}_count"][0])
        parts.append(np.log1p([count]))
        if not one.integer:
            rows = columns[name][0][:count].reshape(count, -1) if count else np.zeros((1, int(np.prod(one.shape))))
            logs = np.sign(rows) * np.log1p(np.abs(rows))
            parts += [logs.mean(0), logs.max(0)]
    return np.concatenate(parts)


class Outside:
    """Says of an observation whether it is outside, and why."""

    def __init__(
        self,
        inputs: Mapping[str, Input],
        low: Features,
        high: Features,
        mean: Features,
        whiten: Features,
        most: float,
    ) -> None:
        self.inputs, self.low, self.high, self.mean, self.whiten, self.most = inputs, low, high, mean, whiten, most
        self.names = feature_names(inputs)

    def __call__(self, columns: Columns) -> bool:
        """True where the observation of one episode, as columns (1, ...), is outside."""
        features = features_of(columns, self.inputs)
        if (features < self.low).any() or (features > self.high).any():
            return True
        return self.distance(features) > self.most

    def distance(self, features: Features) -> float:
        """How far the features (features,) are from their mean; about 1 for usual ones."""
        apart = self.whiten @ (features - self.mean)
        return math.sqrt(apart @ apart / len(apart))

    def why(self, columns: Columns) -> str:
        """The reason in words: the number that is furthest beyond its range, else the distance."""
        features = features_of(columns, self.inputs)
        beyond = np.maximum(self.low - features, features - self.high)
        worst = int(beyond.argmax())
        if beyond[worst] > 0:
            value, low, high = (
                np.sign(x) * np.expm1(abs(x)) for x in (features[worst], self.low[worst], self.high[worst])
            )
            return f"{self.names[worst]} is {value:.4g}, beyond the range {low:.4g} to {high:.4g} of the training data"
        # Each of the independent numbers is a feature, as far as those before it do not say what it must be.
        first = self.names[int(np.abs(self.whiten @ (features - self.mean)).argmax())]
        return (
            f"its numbers together are unlike the training data, {first} above all (distance {self.distance(features):.3g}, "
            f"at most {self.most:.3g})"
        )


def outside_of(extra: Mapping[str, Any], task: str, inputs: Mapping[str, Input]) -> Outside:
    """The guard of a task; `extra` is that of the manifest, `inputs` those of the encoder.

    Raises UserError for a bundle without, and for one whose guard does not fit its inputs.
    """
    guards = extra.get("guard")
    own: Any = guards.get(task) if isinstance(guards, dict) else None
    if not isinstance(own, dict):
        raise UserError(
            f"edge.guard=true (--guard): the bundle says nothing of the observations of task {task} in its training: export "
            "it again with this version (prune.py run=RUN), or leave it away"
        )
    names = feature_names(inputs)
    try:
        low, high, mean, flat = (np.array(own[key], np.float64) for key in ("low", "high", "mean", "whiten"))
        most = float(own["most"])
        size = len(names)
        if own["features"] != names or not low.shape == high.shape == mean.shape == (size,):
            raise ValueError(f"{len(own['features'])} features, and the encoder has {size}")
        whiten = np.zeros((size, size))
        whiten[np.tril_indices(size)] = flat
        if not np.isfinite([*low, *high, *mean, *flat, most]).all() or (low > high).any() or most <= 0:
            raise ValueError("its numbers are not finite, or a range is empty")
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"the bundle's guard of task {task} does not fit its inputs ({error!r:.200})") from None
    return Outside(inputs, low, high, mean, whiten, most)
