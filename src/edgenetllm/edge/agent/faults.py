"""Faults on purpose: an engine that raises, gives no numbers or is slow, and observations that are odd, at a given rate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.columns import AGE, RECENT, WHOLE_PATH, WORK
from edgenetllm.tasks.common.layers import Floats
from edgenetllm.tasks.observation import Array, Ragged

if TYPE_CHECKING:
    from edgenetllm.edge.policy import Decoder

Kind = Literal["raised", "not_finite", "slow", "observation"]
TIMES = 100.0  # by which an odd observation is larger


class InjectedFault(RuntimeError):
    """The exception of a fault on purpose."""


@dataclass(frozen=True)
class Faults:
    """A kind of fault in a fraction `rate` of decisions, drawn from `seed`; a slow engine takes `slow_ms` longer."""

    kind: Kind
    rate: float
    seed: int = 0
    slow_ms: float = 100.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"faults: kind={self.kind!r:.40} is none of {', '.join(get_args(Kind))}")
        if not 0 <= self.rate <= 1:
            raise UserError(f"faults: rate={self.rate!r:.40} must be a fraction of decisions, from 0 to 1")
        if not 0 <= self.slow_ms < 1e6:
            raise UserError(f"faults: slow_ms={self.slow_ms!r:.40} must be milliseconds from 0 on")


class FaultyDecoder:
    """A decoder that fails now and then, always after it has written to its cache."""

    def __init__(self, decoder: Decoder, faults: Faults) -> None:
        self.decoder, self.faults, self.width = decoder, faults, decoder.width
        self.start, self.rewind = decoder.start, decoder.rewind
        self.rng = np.random.default_rng(faults.seed)

    def extend(self, state: Any, tokens: Floats) -> Floats:
        """As the decoder's. Raises InjectedFault where it is to raise."""
        hidden = self.decoder.extend(state, tokens)
        if self.faults.kind == "observation" or self.rng.random() >= self.faults.rate:
            return hidden
        if self.faults.kind == "raised":
            raise InjectedFault("a fault on purpose (edge.faults)")
        if self.faults.kind == "slow":
            time.sleep(self.faults.slow_ms / 1000)
            return hidden
        return np.full_like(hidden, np.nan)


class OddObservations:
    """Observations of which some are odd, of one episode at a time."""

    def __init__(self, faults: Faults) -> None:
        self.faults, self.rng = faults, np.random.default_rng(faults.seed)

    def __call__(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.faults.kind != "observation" or self.rng.random() >= self.faults.rate:
            return observation
        return odd(observation)


def odd(observation: Mapping[str, Any]) -> dict[str, Any]:
    """An observation that a broken measurement could give: throughputs, or all times of jobs and stages, are TIMES as large.

    Of tasks without either, all real numbers are. What BBA and Fair read of an observation stays as it is.
    """
    changed = dict(observation)
    if "throughput_mbps" in observation:
        changed["throughput_mbps"] = np.asarray(observation["throughput_mbps"]) * TIMES
    elif "stages" in observation and "jobs" in observation:
        changed["stages"] = _scaled(observation["stages"], slice(RECENT, WHOLE_PATH + 1))
        changed["jobs"] = _scaled(observation["jobs"], slice(WORK, AGE + 1))
    else:
        changed |= {name: value * TIMES for name, value in _floats(observation).items()}
    return changed


def _scaled(rows: Any, columns: slice) -> Any:
    values = np.array(rows.values if isinstance(rows, Ragged) else rows, np.float64)
    values[..., columns] *= TIMES
    return Ragged(values, rows.count) if isinstance(rows, Ragged) else values


def _floats(observation: Mapping[str, Any]) -> dict[str, Array]:
    arrays = {name: np.asarray(value) for name, value in observation.items() if not isinstance(value, Ragged)}
    return {name: value for name, value in arrays.items() if value.dtype.kind == "f"}
