"""Encoder and head of forecasts without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.common.edge import Columns, Input, check_finite, take
from edgenetllm.tasks.common.layers import Floats, linear, two_layers
from edgenetllm.tasks.observation import Array

MOST = 1 << 16  # rows or columns: a manifest may say anything


class SeriesEncoder:
    """The counterpart of `networks.encoder.SeriesEncoder`."""

    ignored = None

    def __init__(self, options: Mapping[str, Any], weights: Mapping[str, Array], width: int) -> None:
        history, patch, rows = (_count(options, name) for name in ("history", "patch", "rows"))
        periods, seen_again = _periods(options), [int(place) for place in options["seen_again"]]
        if history % patch:
            raise UserError(f"the bundle's encoder has {history} rows of history, which are no patches of {patch}")
        if not seen_again or not all(-1 <= place < len(periods) for place in seen_again):
            raise UserError(f"the bundle's encoder says seen_again={seen_again}, places among {len(periods)} inputs")
        self.periods, self.seen_again, self.width = periods, seen_again, width
        self.tokens_per_step = history // patch
        self.inputs = {"history": Input((history, len(periods)))}
        self.actions = ("rows:", rows, len(seen_again))
        self.angles, self.plain = np.flatnonzero(periods > 0), np.flatnonzero(periods == 0)
        hidden = int(weights["network.0.bias"].shape[0])
        inner = patch * (2 * len(periods) + len(self.angles))
        columns = (len(periods),)
        shapes = {
            "network.0.weight": (hidden, inner), "network.0.bias": (hidden,),
            "network.2.weight": (width, hidden), "network.2.bias": (width,),
            "place": (self.tokens_per_step, width), "base": (len(seen_again),),
            "moved": columns, "centre": columns, "scale": columns,
        }  # fmt: skip
        self.weights = take(weights, shapes, "encoder")
        self.place = np.ascontiguousarray(self.weights["place"].T)
        if not all((self.weights[name] != 0).all() for name in ("moved", "scale")):
            raise UserError("the bundle's encoder has a size of zero")

    def check(self, columns: Columns) -> None:
        """Any finite numbers will do."""

    def embed(self, columns: Columns) -> Columns:
        with np.errstate(over="ignore", invalid="ignore"):  # tokens that are not finite are refused
            return self._features(columns["history"])

    def _features(self, history: Array) -> Columns:
        last, weights = history[:, -1:], self.weights
        features = [around(history - last, self.periods) / weights["moved"]]
        if len(self.plain):
            features.append(((history - weights["centre"]) / weights["scale"])[..., self.plain])
        if len(self.angles):
            turned = history[..., self.angles] * np.float32(2 * np.pi) / self.periods[self.angles]
            features += [np.sin(turned), np.cos(turned)]
        base = np.empty((len(history), len(self.seen_again)), np.float32)
        for number, place in enumerate(self.seen_again):
            base[:, number] = last[:, 0, place] if place >= 0 else weights["base"][number]
        return {"features": np.concatenate(features, axis=-1), "base": base}

    def state(self, embedded: Columns) -> Floats:
        features = embedded["features"]
        patches = features.reshape(len(features) * self.tokens_per_step, -1)
        layers = (self.weights[f"network.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
        tokens = two_layers(np.ascontiguousarray(patches, np.float32), *layers)
        return tokens.reshape(len(features), self.tokens_per_step, self.width) + self.place

    def action(self, action: Array, embedded: Columns) -> Floats:
        return np.zeros((len(action), self.width), np.float32)


class RowsHead:
    """The counterpart of `networks.head.RowsHead`; actions are float32 (episodes, rows, answers)."""

    def __init__(self, options: Mapping[str, Any], weights: Mapping[str, Array], width: int) -> None:
        self.rows, self.periods = _count(options, "rows"), _periods(options)
        number = self.rows * len(self.periods)
        self.actions = ("rows:", self.rows, len(self.periods))
        shapes = {"linear.weight": (number, width), "linear.bias": (number,), "change": (self.rows, len(self.periods))}
        self.weights = take(weights, shapes, "head")
        self.change = np.ascontiguousarray(self.weights["change"].T)

    def logits(self, hidden: Floats, embedded: Columns) -> Floats:
        """Distances in units of `change`, (episodes, width) -> (episodes, rows * answers)."""
        return linear(hidden, self.weights["linear.weight"], self.weights["linear.bias"])

    def decide(self, hidden: Floats, embedded: Columns, rng: np.random.Generator | None = None) -> Array:
        distances = self.logits(hidden, embedded)
        with np.errstate(over="ignore", invalid="ignore"):
            rows = embedded["base"][:, None] + distances.reshape(len(distances), self.rows, -1) * self.change
        check_finite(rows)
        safe = np.where(self.periods > 0, self.periods, np.float32(1))
        half = safe / np.float32(2)
        return np.where(self.periods > 0, np.remainder(rows + half, safe) - half, rows)


def around(distance: Floats, periods: Floats) -> Floats:
    """Distances (..., columns) the nearest way round, where a column has a period above 0."""
    turns: Floats = np.round(distance / np.where(periods > 0, periods, np.float32(1))).astype(np.float32)
    return distance - periods * turns


def _count(options: Mapping[str, Any], name: str) -> int:
    value = options[name]
    if type(value) is not int or not 1 <= value <= MOST:
        raise UserError(f"the bundle's description says {name}={value!r:.80}, not a number from 1 to {MOST}")
    return value


def _periods(options: Mapping[str, Any]) -> Floats:
    with np.errstate(over="ignore"):
        periods = np.array(options["periods"], np.float32)
    if periods.ndim != 1 or not 1 <= len(periods) <= MOST or not np.isfinite(periods).all() or (periods < 0).any():
        raise UserError("the bundle's description has periods that are not finite numbers from 0 on")
    return periods
