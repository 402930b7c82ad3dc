"""The compiled step: all blocks, for all new tokens of all episodes, in one call without Python inside."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.architectures import GELU_NEW, SILU_GATE
from edgenetllm.edge.compiled.attention import attend, rotate, shift, store
from edgenetllm.edge.compiled.cache import cached_njit
from edgenetllm.edge.compiled.functions import (
    add,
    compiled,
    copy,
    gelu_new,
    layer_norm,
    relu,
    rms_norm,
    silu_gate,
)
from edgenetllm.edge.compiled.layouts import INFO, Field, Layout
from edgenetllm.edge.compiled.portable import multiply_bf16, multiply_portable
from edgenetllm.edge.compiled.products import multiply_vector, quantise

TOKENS = 32  # that go through a product together at most
OFFSET = INFO  # the column of the table of matrices that says where the matrix begins in the arena
NOWHERE = -1
SPARE = 16  # slots after the last token that a vector may read
PROJECT_IN, PROJECT_OUT, ATTENTION_IN, ATTENTION_OUT, MLP_IN, MLP_OUT = -2, -1, 0, 1, 2, 3  # kinds of products
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


class Scratch(NamedTuple):
    """Arrays that a thread writes to on its way."""

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


@compiled
def _rows(flat, rows, columns):  # type: ignore[no-untyped-def]
    """The first numbers of a flat array as a matrix."""
    return flat[: rows * columns].reshape(rows, columns)


@compiled
def _norm(network, shape, index, x, out):  # type: ignore[no-untyped-def]
    """The norm of this index for each row of x; rows of x may be longer."""
    weight, bias = network.places[index]
    for row in range(len(out)):
        weights = network.parameters[weight : weight + shape.hidden]
        if shape.layer_norm:
            biases = network.parameters[bias : bias + shape.hidden]
            layer_norm(x[row], weights, biases, shape.epsilon, out[row])
        else:
            rms_norm(x[row], weights, shape.epsilon, out[row])


@compiled
def _attention(scratch, shape, keys, values, block, episode, count, filled, last, out):  # type: ignore[no-untyped-def]
    """Attention of the q/k/v in scratch.wide, out (episodes * count, heads * head); if `last`, of the last tokens alone."""
    wide, rotary = shape.kv_heads * shape.head, scratch.cosines.shape[1] > 0
    for e in range(len(out) // count):
        key_at = (block * shape.episodes + episode + e) * wide * shape.slots
        value_at = (block * shape.episodes + episode + e) * shape.kv_heads * shape.slots * shape.padded_head
        rows = scratch.wide[e * count : (e + 1) * count]
        for token in range(count):
            if rotary:
                rotate(
                    rows[token], shape.heads + shape.kv_heads, shape.head, scratch.cosines[token], scratch.sines[token]
                )
            store(rows[token], shape, keys, values, key_at, value_at, filled + token)
        mixed = out[e * count : (e + 1) * count]
        attend(rows, count - 1 if last else 0, count, shape, keys, values, key_at, value_at, filled, scratch, mixed)


@compiled
def _activate(shape, wide, out):  # type: ignore[no-untyped-def]
    """The activation of the MLP for each row."""
    inner = shape.inner
    for row in range(len(out)):
        if shape.activation == SILU_GATE:
            silu_gate(wide[row, :inner], wide[row, inner : 2 * inner], out[row])
        elif shape.activation == GELU_NEW:
            gelu_new(wide[row, :inner], out[row])
        else:
            relu(wide[row, :inner], out[row])


@compiled
def _keep_last(rows, episodes, count):  # type: ignore[no-untyped-def]
    """Move the last of `count` rows of each episode to the front."""
    for e in range(episodes):
        copy(rows[(e + 1) * count - 1], rows[e])


@compiled
def _add_positions(network, shape, position, count, rows):  # type: ignore[no-untyped-def]
    """Add the learned positions to the tokens of episodes, `count` each."""
    table = network.places[len(network.places) - 1, 0]
    for row in range(len(rows)):
        at = table + (position + row % count + shape.position_offset) * shape.hidden
        add(network.parameters[at : at + shape.hidden], rows[row])


@compiled
def _copy_tokens(tokens, rows):  # type: ignore[no-untyped-def]
    """(episodes, count, width) -> (episodes * count, width)."""
    for e in range(tokens.shape[0]):
        for token in range(tokens.shape[1]):
            copy(tokens[e, token], rows[e * tokens.shape[1] + token])


@compiled
def _prepare(network, scratch, shape, keys, values, tokens, kind, block, episode, filled, x):  # type: ignore[no-untyped-def]
    """Write the input of a product into x (tokens, columns)."""
    count = tokens.shape[1]
    if kind == PROJECT_IN:
        _copy_tokens(tokens, x)
    elif kind == PROJECT_OUT:
        _norm(network, shape, 2 * shape.blocks, scratch.stream, x)
    elif kind == ATTENTION_IN:
        _norm(network, shape, 2 * block, scratch.stream, x)
    elif kind == ATTENTION_OUT:
        _attention(scratch, shape, keys, values, block, episode, count, filled, block == shape.blocks - 1, x)
    elif kind == MLP_IN:
        _norm(network, shape, 2 * block + 1, scratch.stream, x)
    else:
        _activate(shape, scratch.wide, x)


@compiled
def _finish(network, scratch, shape, kind, index, m):  # type: ignore[no-untyped-def]
    """Add the bias to the results in scratch.wide, and results that belong there to the stream."""
    bias, rows = network.places[2 * shape.blocks + 1 + index, 1], network.matrices[index, ROWS]
    for row in range(m):
        if bias != NOWHERE:
            add(network.parameters[bias : bias + rows], scratch.wide[row, :rows])
        if kind == PROJECT_IN:
            copy(scratch.wide[row, :rows], scratch.stream[row])
        elif kind in (ATTENTION_OUT, MLP_OUT):
            add(scratch.wide[row, :rows], scratch.stream[row])


@compiled
def _angles(network, scratch, position, count):  # type: ignore[no-untyped-def]
    """Cosines and sines of the positions from `position` on: the angle is rounded to float32, as in transformers."""
    for token in range(count):
        for i in range(len(network.frequencies)):
            angle = np.float64(np.float32(position + token) * network.frequencies[i])
            scratch.cosines[token, i] = np.cos(angle)
            scratch.sines[token, i] = np.sin(angle)


@cached_njit()
def make_room(shape, keys, values, first, end, filled):  # type: ignore[no-untyped-def]
    """Keep what a later token still sees, at the front of the caches of the episodes first .. end - 1; returns how many."""
    shape = Shape(*shape)
    kept = min(filled, shape.band - 1)
    wide = shape.kv_heads * shape.head
    for block in range(shape.blocks):
        for e in range(first, end):
            at = block * shape.episodes + e
            key_at, value_at = at * wide * shape.slots, at * shape.kv_heads * shape.slots * shape.padded_head
            shift(shape, keys, values, key_at, value_at, filled, kept)
    return kept


@cached_njit()  # without fast mathematics, which the products would inherit
def run_step(network, scratch, shape, keys, values, tokens, out, episode, position, filled, portable):  # type: ignore[no-untyped-def]
    """Append tokens (episodes, count, width), TOKENS in all at most, to the caches of the episodes from `episode` on.

    out (episodes, width) gets the hidden state of the last token of each. `position` tokens came before them, of which the
    caches hold the last `filled`. In the last block only the last token goes on after keys and values are in the cache.
    Named tuples come as plain ones, which numba takes three times faster. `portable` is True or, for products with AVX-512,
    None: numba compiles one kind of products only.
    """
    network, scratch, shape = Network(*network), Scratch(*scratch), Shape(*shape)
    episodes, count = tokens.shape[:2]
    m, projected = episodes * count, shape.width != shape.hidden
    _angles(network, scratch, position, count)
    if not projected:
        _copy_tokens(tokens, scratch.stream)
    for index in range(len(network.matrices)):
        info = network.matrices[index]
        block, kind = divmod(index - int(projected), 4)
        if projected:
            kind = PROJECT_IN if index == 0 else PROJECT_OUT if block == shape.blocks else kind
        # Learned positions are added to what enters the first block.
        if kind == ATTENTION_IN and block == 0 and len(network.frequencies) == 0:
            _add_positions(network, shape, position, count, scratch.stream[:m])
        # What goes into the product.
        x = _rows(scratch.narrow, m, info[COLUMNS])
        _prepare(network, scratch, shape, keys, values, tokens, kind, block, episode, filled, x)
        if kind == ATTENTION_OUT and block == shape.blocks - 1:
            _keep_last(scratch.stream, episodes, count)
            _keep_last(x, episodes, count)
            m = episodes
        # The product, and what becomes of it.
        if info[LAYOUT] == BF16:
            multiply_bf16(network.arena, info, info[OFFSET], x, scratch.wide, m)
        else:
            quantise(x[:m], scratch.planes, scratch.scales, m)
            if portable is None:
                multiply_vector(network.arena, info, info[OFFSET], scratch.planes, scratch.scales, scratch.wide, m)
            else:
                multiply_portable(network.arena, info, info[OFFSET], scratch.planes, scratch.scales, scratch.wide, m)
        _finish(network, scratch, shape, kind, index, m)
    if projected:
        for row in range(episodes):
            copy(scratch.wide[row, : shape.width], out[row])
    else:
        _norm(network, shape, 2 * shape.blocks, scratch.stream, out)
