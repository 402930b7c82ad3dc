"""A decoder that runs step by step, for episodes side by side, as compiled code on int8 weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgenetllm.edge.compiled.architectures import Architecture, check_supported, read_architecture
from edgenetllm.edge.compiled.arena import Floats, Form, Weight, build_network, check_weights
from edgenetllm.edge.compiled.attention import QUERIES
from edgenetllm.edge.compiled.instructions import chosen
from edgenetllm.edge.compiled.layouts import Layout, aligned_bytes
from edgenetllm.edge.compiled.names import layers
from edgenetllm.edge.compiled.products import plane_bytes
from edgenetllm.edge.compiled.step import SPARE, TOKENS, Scratch, Shape, make_room, run_step
from edgenetllm.errors import NotFinite, UserError

__all__ = ["CompiledDecoder", "State", "check_supported"]

ROOM = 64  # tokens that a banded cache takes before it moves what it keeps


@dataclass(eq=False)
class State:
    """The cache of episodes side by side."""

    shape: Shape
    capacity: int | None  # tokens of an episode; None with a band
    keys: Floats
    values: Floats
    position: int = 0  # tokens so far
    filled: int = 0  # tokens in the cache
    moved: bool = False  # the last `extend` had more tokens than a banded cache has room for

    @property
    def nbytes(self) -> int:
        """Memory of the cache."""
        return self.keys.nbytes + self.values.nbytes


class CompiledDecoder:
    """The decoder of a transformers configuration (llama, mistral, qwen2, gpt2 or opt) as compiled code.

    `weights` have the names of the decoder's state dict. A QuantisedMatrix is always (out, in); matrices given as floats
    are as in the state dict, which holds those of GPT-2 as (in, out). With the form int8, floats are rounded to int8 with a
    scale for each row, and so is a matrix with several scales in a row. The form bf16 has bfloat16 weights: it is there to
    check the rest. `layout` is that of all matrices; None: of each by its zeros where there is AVX-512, else dense.
    `threads` share the episodes.

    Raises UserError for a configuration that is not run, for weights that are not exactly those of the configuration, and
    for instructions that this machine lacks.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Weight],
        *,
        form: Form = "int8",
        layout: Layout | None = None,
        instructions: str = "auto",
        threads: int = 1,
    ) -> None:
        if threads < 1:
            raise UserError(f"engine.threads={threads} must be at least 1")
        if form not in ("int8", "bf16"):
            raise UserError(f"the compiled engine has the forms int8 and bf16, not {form}")
        self.instructions = chosen(instructions)
        self._portable = True if self.instructions == "portable" else None
        self.architecture = read_architecture(config)
        check_weights(self.architecture, weights)
        if layout is None and self.instructions == "portable":
            layout = Layout.DENSE  # whatever the zeros: nothing else is fast without AVX-512
        self._network, self.layouts = build_network(self.architecture, weights, form, layout)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._threads = threads
        self._scratches: dict[Shape, list[Scratch]] = {}  # that are not in use; shared by all caches of a shape

    @property
    def width(self) -> int:
        return self.architecture.width

    @property
    def resident_bytes(self) -> int:
        """Memory of all weights."""
        return self._network.arena.nbytes + self._network.parameters.nbytes

    def start(self, episodes: int, *, capacity: int, band: int | None) -> State:
        """Empty caches for episodes side by side, of up to `capacity` tokens each.

        With a `band`, a token sees itself and the band - 1 before it, the caches keep no more, and there is no end.
        Raises UserError for more tokens than the decoder can look back over, and where the memory is too small.
        """
        self._check_start(episodes, capacity, band)
        seen = capacity if band is None else band - 1 + max(ROOM, TOKENS)
        lines = (
            seen + 15 + SPARE
        ) // 16 | 1  # odd: rows at a distance of a power of two would share few places of a cache
        shape = _shape(self.architecture, episodes, 16 * lines, band)
        pairs = shape.blocks * episodes * shape.kv_heads * shape.slots
        try:
            return State(
                shape=shape,
                capacity=capacity if band is None else None,
                keys=_floats(pairs * shape.head + SPARE),
                values=_floats(pairs * shape.padded_head),
            )
        except (MemoryError, OSError, OverflowError, ValueError):
            size = 4 * pairs * (shape.head + shape.padded_head) / 1e9
            raise UserError(
                f"no memory for the caches of {episodes} episodes of {seen} tokens, {size:.4g} GB: start fewer"
            ) from None

    def extend(self, state: State, tokens: Floats) -> Floats:
        """Append tokens (episodes, n, width), n at least 1; hidden states of the last ones after the final norm.

        Raises UserError for tokens of another shape and beyond the capacity, NotFinite for NaN or infinity; neither changes
        the state.
        """
        tokens = np.ascontiguousarray(tokens, np.float32)
        if not tokens.flags.writeable:
            tokens = tokens.copy()  # the step is compiled for the other kind
        self._check_tokens(state, tokens)
        self._make_room(state, tokens.shape[1])
        out = np.empty((state.shape.episodes, self.width), np.float32)
        parts = min(self._threads, state.shape.episodes)
        bounds = [state.shape.episodes * part // parts for part in range(parts + 1)]
        if self._pool is None or parts == 1:
            filled = self._extend(state, tokens, out, *bounds)
        else:
            runs = [
                self._pool.submit(self._extend, state, tokens, out, *bounds[part : part + 2]) for part in range(parts)
            ]
            filled = max(run.result() for run in runs)  # all the same
        state.position, state.filled = state.position + tokens.shape[1], filled
        return out

    def rewind(self, state: State, position: int) -> bool:
        """Forget the tokens from `position` on, of the last `extend`, whether it returned or raised.

        False, changing nothing, where that is not possible: it had more tokens than a banded cache has room for.
        """
        if state.moved or not 0 <= state.position - position <= state.filled:
            return False
        state.filled -= state.position - position
        state.position = position
        return True

    def _make_room(self, state: State, count: int) -> None:
        """Give a banded cache room for `count` tokens before anything is written to it, where it has so much.

        An `extend` that raises on its way then leaves what was in it as it was.
        """
        shape = state.shape
        if shape.banded and state.filled + count > shape.slots - SPARE:
            keys, values = state.keys, state.values
            state.filled = make_room(tuple(shape), keys, values, 0, shape.episodes, state.filled)
        state.moved = bool(shape.banded) and state.filled + count > shape.slots - SPARE

    def _extend(self, state: State, tokens: Floats, out: Floats, first: int, end: int) -> int:
        """Extend the episodes first .. end - 1 in a scratch that no other thread has; returns the tokens in their caches.

        TOKENS tokens go through the step at a time: of several episodes, or a part of a long prefix, of which later parts
        overwrite what earlier ones leave in `out`.
        """
        shape, filled, n = state.shape, state.filled, tokens.shape[1]
        free = self._scratches.setdefault(shape, [])
        try:
            scratch = free.pop()
        except IndexError:
            scratch = _scratch(self.architecture, shape)
        for start in range(0, n, TOKENS):
            count = min(TOKENS, n - start)
            if shape.banded and filled + count > shape.slots - SPARE:
                filled = make_room(tuple(shape), state.keys, state.values, first, end, filled)
            together = max(1, TOKENS // count)
            for episode in range(first, end, together):
                here = slice(episode, min(end, episode + together))
                new = np.ascontiguousarray(tokens[here, start : start + count])
                run_step(
                    tuple(self._network), tuple(scratch), tuple(shape), state.keys, state.values,
                    new, out[here], episode, state.position + start, filled, self._portable,
                )  # fmt: skip
            filled += count
        free.append(scratch)
        return filled

    def _check_start(self, episodes: int, capacity: int, band: int | None) -> None:
        architecture = self.architecture
        if episodes < 1 or capacity < 1 or (band is not None and band < 1):
            raise UserError(f"episodes={episodes}, capacity={capacity} and band={band} must be at least 1")
        if architecture.positions is not None:
            if band is not None:
                raise UserError(
                    f"{architecture.kind} has learned positions: its episodes end, so it runs without a band"
                )
            if capacity > architecture.positions:
                raise UserError(
                    f"{capacity} tokens are more than the {architecture.positions} positions of this decoder"
                )
        seen = capacity if band is None else band
        if architecture.sliding_window is not None and seen > architecture.sliding_window:
            raise UserError(
                f"a token of this {architecture.kind} sees {architecture.sliding_window} tokens (sliding_window), fewer than "
                f"the {seen} asked for: type engine=torch"
            )

    def _check_tokens(self, state: State, tokens: Floats) -> None:
        episodes = state.shape.episodes
        if tokens.ndim != 3 or tokens.shape[0] != episodes or tokens.shape[2] != self.width or tokens.shape[1] < 1:
            raise UserError(f"tokens must have the shape ({episodes}, n, {self.width}), not {tokens.shape}")
        if not math.isfinite(np.vdot(tokens, tokens)):
            raise NotFinite("tokens must be finite numbers")
        if state.capacity is not None and state.position + tokens.shape[1] > state.capacity:
            raise UserError(
                f"{tokens.shape[1]} tokens more than the {state.position} so far are beyond the capacity of "
                f"{state.capacity}: give start() a larger one"
            )


def _shape(architecture: Architecture, episodes: int, slots: int, band: int | None) -> Shape:
    return Shape(
        hidden=architecture.hidden,
        width=architecture.width,
        blocks=architecture.blocks,
        heads=architecture.heads,
        kv_heads=architecture.kv_heads,
        head=architecture.head,
        padded_head=-(-architecture.head // 16) * 16,
        inner=architecture.inner,
        activation=architecture.activation,
        layer_norm=int(architecture.layer_norm),
        position_offset=architecture.position_offset,
        band=slots if band is None else band,
        banded=int(band is not None),
        slots=slots,
        episodes=episodes,
        epsilon=architecture.epsilon,
        scale=architecture.head**-0.5,
    )


def _scratch(architecture: Architecture, shape: Shape) -> Scratch:
    """Room for TOKENS tokens in each product, and for the queries of one key head."""
    products = layers(architecture)
    narrow = max(layer.columns for layer in products)
    wide = max(sum(layer.rows) for layer in products)
    queries = max(QUERIES, shape.heads // shape.kv_heads)
    half = 0 if architecture.frequencies is None else len(architecture.frequencies)
    return Scratch(
        stream=_floats(TOKENS * shape.hidden).reshape(TOKENS, -1),
        narrow=_floats(TOKENS * narrow),
        wide=_floats(TOKENS * wide).reshape(TOKENS, -1),
        queries=_floats(queries * shape.head),
        scores=_floats(queries * shape.slots),
        mixed=_floats(queries * shape.padded_head),
        cosines=np.zeros((TOKENS, half), np.float32),
        sines=np.zeros((TOKENS, half), np.float32),
        planes=aligned_bytes(plane_bytes(TOKENS, narrow)),
        scales=_floats(TOKENS),
    )


def _floats(count: int) -> Floats:
    return aligned_bytes(4 * count).view(np.float32)
