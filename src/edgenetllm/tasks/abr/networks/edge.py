"""The encoders of ABR without torch (see `encoder.py`, whose features these are)."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.protocol import CHUNKS, PAST
from edgenetllm.tasks.common.edge import Columns, Input, take
from edgenetllm.tasks.common.layers import Floats, affine, gelu
from edgenetllm.tasks.compiled import Compiler
from edgenetllm.tasks.observation import Array

HIDDEN = 64
NAMES = ("bitrate", "buffer", "throughput", "delay", "next_sizes", "chunks_left")  # of the features of a step, in order
FEATURES = ("raw", "history", "plain")
RAW, HISTORY, PLAIN = range(3)
LEAST = np.float32(1e-3)  # whose logarithm stands for nothing
LEAST_SUM = np.float32(1e-6)

njit = Compiler(Path(__file__).parents[2], ("abr/networks/edge", "abr/protocol", "common/layers"))


@njit(cache=True, nogil=True, error_model="numpy")
def _features(kind, level, buffer, throughput, delay, sizes, left, past, past_delay, bitrates, out):
    """Write the features of one episode: FEATURES says which."""
    at = len(bitrates) if kind != PLAIN else 1
    if kind == PLAIN:
        out[0], out[1], out[2] = bitrates[level], buffer / np.float32(10), throughput / np.float32(8)
        out[3] = delay / np.float32(10)
    else:
        out[:at] = 0
        out[level] = 1
        out[at], out[at + 1] = buffer / np.float32(20), np.log(max(throughput, LEAST))
        out[at + 2] = np.log(max(delay, LEAST) / np.float32(4))
    at += 3
    for k in range(len(bitrates)):
        out[at + k] = sizes[k]
    at += len(bitrates)
    out[at] = left / np.float32(CHUNKS)
    if kind == HISTORY:
        known, total = np.float32(0), np.float32(0)
        for k in range(PAST):
            out[at + 1 + k] = out[at + 1 + PAST + k] = 0
            if past[k] > 0:
                known += np.float32(1)
                total += np.float32(1) / max(past[k], LEAST)
                out[at + 1 + k] = np.log(max(past[k], LEAST))
                out[at + 1 + PAST + k] = np.log(max(past_delay[k] / np.float32(4), LEAST))
        out[at + 1 + 2 * PAST] = np.log(max(known / max(total, LEAST_SUM), LEAST))


@njit(cache=True, nogil=True, error_model="numpy")
def _fused(
    kind, level, buffer, throughput, delay, sizes, left, past, past_delay, bitrates, weight1, bias1, weight2, bias2, out
):
    features, inner = np.empty(weight1.shape[0], np.float32), np.empty(HIDDEN, np.float32)
    for n in range(len(level)):
        _features(
            kind, level[n], buffer[n], throughput[n], delay[n], sizes[n], left[n], past[n], past_delay[n], bitrates,
            features,
        )  # fmt: skip
        affine(features, weight1, bias1, inner)
        gelu(inner)
        affine(inner, weight2, bias2, out[n, 0])


@njit(cache=True, nogil=True, error_model="numpy")
def _per_feature(
    kind, level, buffer, throughput, delay, sizes, left, past, past_delay, bitrates, counts, weight, bias, out
):
    """`weight` (inputs, width) and `bias` (features, width) of all maps, one below another."""
    features = np.empty(weight.shape[0], np.float32)
    for n in range(len(level)):
        _features(
            kind, level[n], buffer[n], throughput[n], delay[n], sizes[n], left[n], past[n], past_delay[n], bitrates,
            features,
        )  # fmt: skip
        at = 0
        for k in range(len(counts)):
            affine(features[at : at + counts[k]], weight[at : at + counts[k]], bias[k], out[n, k])
            at += counts[k]


class LevelEncoder:
    """Features as `features` says, of a ladder of `mbps`, and an embedding of each of its levels."""

    ignored = frozenset({"rebuffer_s", "chunk_index", "video"})
    tokens_per_step: int

    def __init__(self, options: Mapping[str, Any], weights: Mapping[str, Array], width: int) -> None:
        features, mbps = options.get("features"), np.array(options.get("mbps"), np.float64)
        rising = mbps.ndim == 1 and len(mbps) > 1 and mbps[0] > 0 and bool((np.diff(mbps) > 0).all())
        if features not in FEATURES or not rising or not np.isfinite(mbps).all():
            raise UserError(
                f"the bundle's encoder of ABR has features {features!r:.80} and bitrates {mbps.tolist()!s:.80}"
            )
        self.width, self.kind, self.levels = width, FEATURES.index(features), len(mbps)
        self.actions = ("a choice of", self.levels)
        self.bitrates = (mbps / mbps[-1]).astype(np.float32)
        past = {"past_throughput_mbps": Input((PAST,)), "past_delay_s": Input((PAST,))}
        self.inputs = {
            "last_quality": Input(integer=True, high=self.levels - 1),
            "buffer_s": Input(), "throughput_mbps": Input(), "delay_s": Input(),
            "next_sizes_mb": Input((self.levels,)), "chunks_left": Input(),
            **(past if self.kind == HISTORY else {}),
        }  # fmt: skip
        if self.kind != HISTORY:
            self.ignored = self.ignored | past.keys()
        shapes = {**self._shapes(), "actions.weight": (self.levels, width)}
        self.weights = take(weights, shapes, "encoder of ABR")
        self.action_weight = np.ascontiguousarray(self.weights.pop("actions.weight").T)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights that map features to tokens."""
        raise NotImplementedError

    def _counts(self) -> list[int]:
        """Number of inputs of each of NAMES."""
        several = {"next_sizes": self.levels, "bitrate": 1 if self.kind == PLAIN else self.levels}
        return [several.get(name, 1) for name in NAMES]

    def _arguments(self, embedded: Columns) -> tuple[Any, ...]:
        """The arguments of compiled code up to the bitrates."""
        columns = [embedded[name] for name in self.inputs]
        if self.kind != HISTORY:
            columns += [columns[4], columns[4]]  # not read
        return self.kind, *columns, self.bitrates

    def check(self, columns: Columns) -> None:
        """The level is known to be one of the ladder's."""

    def embed(self, columns: Columns) -> Columns:
        return columns

    def action(self, action: Array, embedded: Columns) -> Floats:
        return self.action_weight[action]


class FusedEncoder(LevelEncoder):
    """All features of a step in one token."""

    tokens_per_step = 1

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        inputs = sum(self._counts()) + (2 * PAST + 1 if self.kind == HISTORY else 0)
        return {
            "network.0.weight": (HIDDEN, inputs), "network.0.bias": (HIDDEN,),
            "network.2.weight": (self.width, HIDDEN), "network.2.bias": (self.width,),
        }  # fmt: skip

    def state(self, embedded: Columns) -> Floats:
        out = np.empty((len(embedded["last_quality"]), 1, self.width), np.float32)
        layers = (self.weights[f"network.{name}"] for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
        _fused(*self._arguments(embedded), *layers, out)
        return out


class PerFeatureEncoder(LevelEncoder):
    """A token for each feature of a step, each with its own linear map."""

    tokens_per_step = len(NAMES)

    def __init__(self, options: Mapping[str, Any], weights: Mapping[str, Array], width: int) -> None:
        super().__init__(options, weights, width)
        if self.kind == HISTORY:
            raise UserError("the bundle's encoder of ABR: a token per feature has no features=history")
        self.counts = np.array(self._counts())
        self.weight = np.concatenate([self.weights[f"maps.{name}.weight"] for name in NAMES])
        self.bias = np.stack([self.weights[f"maps.{name}.bias"] for name in NAMES])

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        counts = dict(zip(NAMES, self._counts(), strict=True))
        weights = {f"maps.{name}.weight": (self.width, count) for name, count in counts.items()}
        return weights | {f"maps.{name}.bias": (self.width,) for name in counts}

    def state(self, embedded: Columns) -> Floats:
        out = np.empty((len(embedded["last_quality"]), self.tokens_per_step, self.width), np.float32)
        _per_feature(*self._arguments(embedded), self.counts, self.weight, self.bias, out)
        return out
