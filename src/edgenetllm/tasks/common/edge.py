"""Encoders and heads without torch: what the edge asks of them, and the counterparts of the shared building blocks.

A counterpart is made as `Class(options, weights, width)`: `options` are what its torch module's `for_edge()` gave, `weights`
the float32 arrays of its state dict. Columns of an observation arrive with the episodes first; a Ragged `x` arrives as
`x` (episodes, rows, ...) and `x_count` (episodes,).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgenetllm.errors import NotFinite, UserError
from edgenetllm.tasks.common.layers import Floats, linear, two_layers
from edgenetllm.tasks.observation import Array

HIDDEN = 64  # of VectorEncoder
Columns = Mapping[str, Array]


@dataclass(frozen=True)
class Input:
    """A name of the observation: the shape of one episode's value, and what it may be; floats need only be finite."""

    shape: tuple[int, ...] = ()
    integer: bool = False
    low: int = 0  # of integers
    high: int = 2**53
    ragged: bool = False  # rows of this shape, of any number
    columns: tuple[str, ...] = ()  # names of the columns of a row, where they have some


class EdgeEncoder(Protocol):
    """Observation and action to tokens of the backbone's width."""

    inputs: Mapping[str, Input]
    """Names that `embed` reads: int64 where `integer`, else float32."""
    ignored: frozenset[str] | None
    """Other names that an observation may have; None: any."""
    tokens_per_step: int

    def check(self, columns: Columns) -> None:
        """Raise UserError for numbers that do not fit together, such as a row that is not there."""
        ...

    def embed(self, columns: Columns) -> Columns:
        """The columns that everything else here is handed, the head included."""
        ...

    def state(self, embedded: Columns) -> Floats:
        """State tokens (episodes, tokens_per_step, width)."""
        ...

    def action(self, action: Array, embedded: Columns) -> Floats:
        """Action tokens (episodes, width); `embedded` is what the action was chosen on."""
        ...


class EdgeHead(Protocol):
    """Hidden state of the last state token to an action."""

    def decide(self, hidden: Floats, embedded: Columns, rng: np.random.Generator | None = None) -> Array:
        """(episodes, width) -> actions (episodes, ...): greedy, or sampled when a generator is given."""
        ...


def take(weights: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]], kind: str) -> dict[str, Floats]:
    """The weights by name, matrices transposed to (in, out). Raises UserError unless they have exactly these shapes."""
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    for name in sorted(set(found) ^ set(shapes)):
        raise UserError(
            f"the bundle's {kind} {'has' if name in found else 'lacks'} {name}: it does not fit its description"
        )
    for name, shape in shapes.items():
        if found[name] != shape:
            raise UserError(f"the bundle's {kind}: {name} is {found[name]}, but its description says {shape}")
    return {name: np.ascontiguousarray(weight.T, np.float32) for name, weight in weights.items()}


def _count(options: Mapping[str, Any], name: str) -> int:
    value = options[name]
    if type(value) is not int or value < 1:
        raise UserError(f"the bundle's description says {name}={value!r:.80}, not a number from 1 on")
    return value


def choose(logits: Floats, rng: np.random.Generator | None) -> Array:
    """The most probable class of each row, the first of equal ones, or a sampled one, (n, classes) -> int64 (n,).

    Raises NotFinite for logits that are NaN or infinite.
    """
    check_finite(logits)
    if rng is None:
        return logits.argmax(-1)
    weights = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True)).cumsum(-1)
    drawn = rng.random((len(logits), 1)) * weights[:, -1:]
    return (weights <= drawn).sum(-1)  # drawn < the last: a class is always found


def check_finite(logits: Floats) -> None:
    """Raises NotFinite where a number is NaN or infinite."""
    with np.errstate(invalid="ignore"):  # of infinities of both signs
        total = logits.sum(dtype=np.float64)
    if not math.isfinite(total):  # which a single one makes the sum, too
        raise NotFinite("the logits of a decision are not finite: the bundle cannot decide on this observation")


class VectorEncoder:
    """The counterpart of `tasks.common.encoders.VectorEncoder`."""

    tokens_per_step = 1
    ignored = None

    def __init__(self, options: Mapping[str, Any], weights: Mapping[str, Array], width: int) -> None:
        scales = {name: np.array(scale, np.float32) for name, scale in options["scales"].items()}
        self.inputs = {name: Input(scale.shape) for name, scale in scales.items()}
        self.scale = np.concatenate([scale.ravel() for scale in scales.values()])
        if not all((scale > 0).all() and np.isfinite(scale).all() for scale in scales.values()):
            raise UserError("the bundle's encoder has a scale that is not positive and finite")
        self.discrete = options["action"] == "choice"
        number = _count(options, "actions")
        self.actions = ("a choice of" if self.discrete else "numbers:", number)
        shapes = {
            "network.0.weight": (HIDDEN, len(self.scale)), "network.0.bias": (HIDDEN,),
            "network.2.weight": (width, HIDDEN), "network.2.bias": (width,),
            "actions.weight": (number, width) if self.discrete else (width, number),
            **({} if self.discrete else {"actions.bias": (width,)}),
        }  # fmt: skip
        self.weights = take(weights, shapes, "encoder")
        if self.discrete:
            self.weights["actions.weight"] = np.ascontiguousarray(self.weights["actions.weight"].T)

    def check(self, columns: Columns) -> None:
        """Any finite numbers will do."""

    def embed(self, columns: Columns) -> Columns:
        return columns

    def state(self, embedded: Columns) -> Floats:
        values = np.concatenate([embedded[name].reshape(len(embedded[name]), -1) for name in self.inputs], axis=1)
        layers = (self.weights[f"network.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
        return two_layers(values / self.scale, *layers)[:, None]

    def action(self, action: Array, embedded: Columns) -> Floats:
        if self.discrete:
            return self.weights["actions.weight"][action]
        return linear(
            np.ascontiguousarray(action, np.float32), self.weights["actions.weight"], self.weights["actions.bias"]
        )


class ChoiceHead:
    """The counterpart of `tasks.common.heads.ChoiceHead`; actions are int64 (episodes,)."""

    def __init__(self, options: Mapping[str, Any], weights: Mapping[str, Array], width: int) -> None:
        choices = _count(options, "choices")
        self.actions = ("a choice of", choices)
        self.weights = take(weights, {"linear.weight": (choices, width), "linear.bias": (choices,)}, "head")

    def logits(self, hidden: Floats, embedded: Columns) -> Floats:
        """(episodes, width) -> (episodes, choices)."""
        return linear(hidden, self.weights["linear.weight"], self.weights["linear.bias"])

    def decide(self, hidden: Floats, embedded: Columns, rng: np.random.Generator | None = None) -> Array:
        return choose(self.logits(hidden, embedded), rng)


class GaussianHead:
    """The counterpart of `tasks.common.heads.GaussianHead`; actions are float32 (episodes, size)."""

    def __init__(self, options: Mapping[str, Any], weights: Mapping[str, Array], width: int) -> None:
        size = _count(options, "size")
        self.actions = ("numbers:", size)
        shapes = {"mean.weight": (size, width), "mean.bias": (size,), "log_std": (size,)}
        self.weights = take(weights, shapes, "head")

    def logits(self, hidden: Floats, embedded: Columns) -> Floats:
        """The mean action, (episodes, width) -> (episodes, size)."""
        return linear(hidden, self.weights["mean.weight"], self.weights["mean.bias"])

    def decide(self, hidden: Floats, embedded: Columns, rng: np.random.Generator | None = None) -> Array:
        mean = self.logits(hidden, embedded)
        check_finite(mean)
        if rng is None:
            return mean
        return mean + np.exp(self.weights["log_std"]) * rng.standard_normal(mean.shape, np.float32)
