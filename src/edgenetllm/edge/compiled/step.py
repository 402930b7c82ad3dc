"""The compiled step: all blocks, for all new tokens of all episodes, in one call without Python inside."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.architectures import GELU_NEW, SILU_GATE
from edgenetllm.edge.compiled.attention import attend, rotate, shift, store
from edgenetllm.edge.compiled.cache import cached_njit
from edgenetllm.edge.compiled.functions import FAST, add, gelu_new, layer_norm, relu, rms_norm, silu_gate
from edgenetllm.edge.compiled.layouts import INFO, Field, Layout
from edgenetllm.edge.compiled.products import multiply, quantise

TOKENS = 32  # that go through a product together at most
OFFSET = INFO  # the column of the table of matrices that says where the matrix begins in the arena
NOWHERE = -1
LAYOUT, ROWS, COLUMNS = int(Field.LAYOUT), int(Field.ROWS), int(Field.COLUMNS)
BF16 = int(Layout.BF16)

Floats = npt.NDArray[np.float32]


class Network(NamedTuple):
    """The weights: read by all threads."""

    arena: npt.NDArray[np.uint8]
    matrices: npt.NDArray[np.int64]  # (products, INFO + 1): those of `names.layers`
    parameters: Floats
    places: npt.NDArray[np.int64]  # (rows, 2): where weight and bias of each norm and product are in the parameters
    frequencies: Floats  # (head / 2,), or empty


class Shape(NamedTuple):
    """The numbers that the step is run with."""

    hidden: int
    width: int
    blocks: int
    heads: int
    kv_heads: int
    head: int
    padded_head: int  # a multiple of 16
    inner: int
    activation: int
    layer_norm: int
    position_offset: int
    band: int  # the most tokens that a token sees
    banded: int  # the cache moves on; else it ends
    slots: int  # tokens that the cache has room for
    episodes: int
    epsilon: float
    scale: float  # of the scores
    vector: bool


class Scratch(NamedTuple):
    """What a thread writes to on its way."""

    stream: Floats  # (TOKENS, hidden)
    narrow: Floats  # flat, room for (TOKENS, the widest input of a product)
    wide: Floats  # (TOKENS, the widest output of a product)
    queries: Floats  # flat
    scores: Floats  # flat
    mixed: Floats  # flat
    cosines: Floats  # (TOKENS, head / 2)
    sines: Floats
    planes: npt.NDArray[np.uint8]  # of quantised tokens
    scales: Floats  # (TOKENS,), of quantised tokens


@numba.njit(nogil=True)
def _rows(flat, rows, columns):  # type: ignore[no-untyped-def]
    """The first numbers of a flat array as a matrix."""
    return flat[: rows * columns].reshape(rows, columns)


@numba.njit(nogil=True, fastmath=FAST)
def _product(network, scratch, shape, index, m):  # type: ignore[no-untyped-def]
    """scratch.wide = scratch.narrow @ matrix.T + bias, for m tokens."""
    info = network.matrices[index]
    x = _rows(scratch.narrow, m, info[COLUMNS])
    if info[LAYOUT] != BF16:
        quantise(x, scratch.planes, scratch.scales, m)
    multiply(network.arena, info, info[OFFSET], x, scratch.planes, scratch.scales, scratch.wide, m, shape.vector)
    bias = network.places[2 * shape.blocks + 1 + index, 1]
    if bias != NOWHERE:
        for row in range(m):
            add(network.parameters[bias : bias + info[ROWS]], scratch.wide[row, : info[ROWS]])


@numba.njit(nogil=True, fastmath=FAST)
def _norm(network, scratch, shape, index, m):  # type: ignore[no-untyped-def]
    """scratch.narrow = norm(scratch.stream), for m tokens."""
    weight, bias = network.places[index]
    normed = _rows(scratch.narrow, m, shape.hidden)
    for row in range(m):
        x, out = scratch.stream[row], normed[row]
        if shape.layer_norm:
            biases = network.parameters[bias : bias + shape.hidden]
            layer_norm(x, network.parameters[weight : weight + shape.hidden], biases, shape.epsilon, out)
        else:
            rms_norm(x, network.parameters[weight : weight + shape.hidden], shape.epsilon, out)


@numba.njit(nogil=True, fastmath=FAST)
def _attention(scratch, shape, keys, values, block, episode, episodes, count, filled, last):  # type: ignore[no-untyped-def]
    """scratch.narrow = attention of the q/k/v in scratch.wide, (episodes * count, ...): of the last token alone if `last`."""
    wide, rotary = shape.kv_heads * shape.head, scratch.cosines.shape[1] > 0
    mixed = _rows(scratch.narrow, episodes * count, shape.heads * shape.head)
    for e in range(episodes):
        key_at = (block * shape.episodes + episode + e) * wide * shape.slots
        value_at = (block * shape.episodes + episode + e) * shape.kv_heads * shape.slots * shape.padded_head
        rows = scratch.wide[e * count : (e + 1) * count]
        for token in range(count):
            if rotary:
                rotate(
                    rows[token], shape.heads + shape.kv_heads, shape.head, scratch.cosines[token], scratch.sines[token]
                )
            store(rows[token], shape, keys, values, key_at, value_at, filled + token)
        first = count - 1 if last else 0
        out = mixed[e * count : (e + 1) * count]
        attend(rows, first, count, shape, keys, values, key_at, value_at, filled, scratch, out)


@numba.njit(nogil=True, fastmath=FAST)
def _mlp(network, scratch, shape, index, m):  # type: ignore[no-untyped-def]
    """scratch.wide = MLP of scratch.narrow."""
    _product(network, scratch, shape, index, m)
    inner = shape.inner
    mixed = _rows(scratch.narrow, m, inner)
    for row in range(m):
        wide, out = scratch.wide[row], mixed[row]
        if shape.activation == SILU_GATE:
            silu_gate(wide[:inner], wide[inner : 2 * inner], out)
        elif shape.activation == GELU_NEW:
            gelu_new(wide[:inner], out)
        else:
            relu(wide[:inner], out)
    _product(network, scratch, shape, index + 1, m)


@numba.njit(nogil=True, fastmath=FAST)
def _enter(network, scratch, shape, tokens, position):  # type: ignore[no-untyped-def]
    """scratch.stream = tokens (episodes, count, width), projected where the width differs, plus learned positions."""
    episodes, count = tokens.shape[:2]
    projected = shape.width != shape.hidden
    entered = _rows(scratch.narrow, episodes * count, shape.width) if projected else scratch.stream
    for e in range(episodes):
        for token in range(count):
            entered[e * count + token] = tokens[e, token]
    if projected:
        _product(network, scratch, shape, 0, episodes * count)
        for row in range(episodes * count):
            scratch.stream[row, : shape.hidden] = scratch.wide[row, : shape.hidden]
    if len(network.frequencies) == 0:
        table = network.places[len(network.places) - 1, 0]
        for row in range(episodes * count):
            at = table + (position + row % count + shape.position_offset) * shape.hidden
            add(network.parameters[at : at + shape.hidden], scratch.stream[row, : shape.hidden])


@numba.njit(nogil=True, fastmath=FAST)
def _advance(network, scratch, shape, keys, values, tokens, episode, position, filled):  # type: ignore[no-untyped-def]
    """Run new tokens (episodes, count, width) of the episodes from `episode` on: scratch.stream holds the last ones.

    In the last block only the last token of each episode goes on after its keys and values are in the cache.
    """
    episodes, count = tokens.shape[:2]
    m, projected = episodes * count, int(shape.width != shape.hidden)
    _enter(network, scratch, shape, tokens, position)
    for block in range(shape.blocks):
        last = block == shape.blocks - 1
        index = projected + 4 * block
        _norm(network, scratch, shape, 2 * block, m)
        _product(network, scratch, shape, index, m)
        _attention(scratch, shape, keys, values, block, episode, episodes, count, filled, last)
        if last:
            mixed = _rows(scratch.narrow, m, shape.heads * shape.head)
            for e in range(episodes):
                scratch.stream[e] = scratch.stream[(e + 1) * count - 1]
                mixed[e] = mixed[(e + 1) * count - 1]
            m = episodes
        _product(network, scratch, shape, index + 1, m)
        for row in range(m):
            add(scratch.wide[row, : shape.hidden], scratch.stream[row, : shape.hidden])
        _norm(network, scratch, shape, 2 * block + 1, m)
        _mlp(network, scratch, shape, index + 2, m)
        for row in range(m):
            add(scratch.wide[row, : shape.hidden], scratch.stream[row, : shape.hidden])


@numba.njit(nogil=True, fastmath=FAST)
def _leave(network, scratch, shape, out):  # type: ignore[no-untyped-def]
    """out (episodes, width) = final norm of scratch.stream, projected where the width differs."""
    episodes = len(out)
    _norm(network, scratch, shape, 2 * shape.blocks, episodes)
    result = _rows(scratch.narrow, episodes, shape.hidden)
    if shape.width != shape.hidden:
        _product(network, scratch, shape, len(network.matrices) - 1, episodes)
        result = scratch.wide
    for row in range(episodes):
        out[row] = result[row, : shape.width]


@numba.njit(nogil=True)
def _angles(network, scratch, position, count):  # type: ignore[no-untyped-def]
    """Cosines and sines of the positions from `position` on: the angle is rounded to float32, as in transformers."""
    for token in range(count):
        for i in range(len(network.frequencies)):
            angle = np.float64(np.float32(position + token) * network.frequencies[i])
            scratch.cosines[token, i] = np.cos(angle)
            scratch.sines[token, i] = np.sin(angle)


@cached_njit()
def run_step(network, scratch, shape, keys, values, tokens, out, first, end, position, filled):  # type: ignore[no-untyped-def]
    """Append tokens (episodes, n, width) to the caches of the episodes first .. end; their last hidden states into out.

    `position` tokens came before, of which the caches hold the last `filled`. Returns how many they hold now.
    """
    n, start = tokens.shape[1], 0
    wide = shape.kv_heads * shape.head
    while start < n:
        count = min(TOKENS, n - start)
        # With a band, make room by keeping what a later token still sees.
        if shape.banded and filled + count > shape.slots - 16:
            kept = min(filled, shape.band - 1)
            for block in range(shape.blocks):
                for e in range(first, end):
                    at = block * shape.episodes + e
                    key_at, value_at = at * wide * shape.slots, at * shape.kv_heads * shape.slots * shape.padded_head
                    shift(shape, keys, values, key_at, value_at, filled, kept)
            filled = kept
        _angles(network, scratch, position + start, count)
        # As many episodes at a time as the scratch holds.
        group, episode = max(1, TOKENS // count), first
        while episode < end:
            stop = min(end, episode + group)
            new = tokens[episode:stop, start : start + count]
            _advance(network, scratch, shape, keys, values, new, episode, position + start, filled)
            if start + count == n:
                _leave(network, scratch, shape, out[episode:stop])
            episode = stop
        filled += count
        start += count
    return filled
