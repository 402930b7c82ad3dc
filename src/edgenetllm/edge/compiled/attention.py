"""Grouped-query attention of new tokens over the cache of one episode, in one block."""

from __future__ import annotations

import numpy as np

from edgenetllm.edge.compiled.functions import compiled, copy, scale, softmax
from edgenetllm.edge.compiled.tiles import multiply_tiles

QUERIES = 12  # queries of one key head that are scored together: tokens times the query heads that share it


@compiled
def rotate(row, heads, head, cosines, sines):  # type: ignore[no-untyped-def]
    """Turn each head of a row (heads * head,) by the angles of its position: pairs are (i, i + head / 2)."""
    half = head // 2
    for index in range(heads):
        first, second = row[index * head : index * head + half], row[index * head + half : (index + 1) * head]
        for i in range(half):
            left, right = first[i], second[i]
            first[i] = left * cosines[i] - right * sines[i]
            second[i] = right * cosines[i] + left * sines[i]


@compiled
def store(row, shape, keys, values, key_at, value_at, slot):  # type: ignore[no-untyped-def]
    """Append the keys and values in a row of the q/k/v product to the cache, whose keys are (kv heads, head, slots)."""
    queries, wide = shape.heads * shape.head, shape.kv_heads * shape.head
    for i in range(wide):
        keys[key_at + i * shape.slots + slot] = row[queries + i]
    for kv in range(shape.kv_heads):
        at, first = value_at + (kv * shape.slots + slot) * shape.padded_head, queries + wide + kv * shape.head
        copy(row[first : first + shape.head], values[at : at + shape.head])


@compiled
def attend(rows, first, count, shape, keys, values, key_at, value_at, filled, scratch, out):  # type: ignore[no-untyped-def]
    """Attention of `count` tokens, rows of the q/k/v product, over the cache: out (count, heads * head).

    Token i of all rows has the slot `filled` + i and sees the slots up to its own, of these the last shape.band. Tokens
    before `first` are skipped.
    """
    group, head = shape.heads // shape.kv_heads, shape.head
    together = max(1, QUERIES // group)
    stride = shape.slots
    queries, scores, mixed = scratch.queries, scratch.scores, scratch.mixed
    start = first
    while start < count:
        tokens = min(together, count - start)
        low = max(0, filled + start + 1 - shape.band)  # the slots that any of these tokens sees
        high = filled + start + tokens
        for kv in range(shape.kv_heads):
            for token in range(tokens):
                for g in range(group):
                    at, to = (kv * group + g) * head, (token * group + g) * head
                    scale(rows[start + token, at : at + head], np.float32(shape.scale), queries[to : to + head])
            multiply_tiles(
                queries, 0, shape.head, keys, key_at + kv * shape.head * stride + low, stride,
                scores, 0, stride, tokens * group, shape.head, high - low,
            )  # fmt: skip
            for token in range(tokens):
                begin = max(0, filled + start + token + 1 - shape.band) - low
                end = filled + start + token + 1 - low
                for g in range(group):
                    line = scores[(token * group + g) * stride : (token * group + g) * stride + high - low]
                    for i in range(begin):
                        line[i] = 0
                    softmax(line[begin:end])
                    for i in range(end, high - low):
                        line[i] = 0
            multiply_tiles(
                scores, 0, stride, values, value_at + (kv * stride + low) * shape.padded_head, shape.padded_head,
                mixed, 0, shape.padded_head, tokens * group, high - low, shape.head,
            )  # fmt: skip
            for token in range(tokens):
                for g in range(group):
                    at, to = (token * group + g) * shape.padded_head, (kv * group + g) * head
                    copy(mixed[at : at + head], out[start + token, to : to + head])
        start += tokens


@compiled
def shift(shape, keys, values, key_at, value_at, filled, kept):  # type: ignore[no-untyped-def]
    """Move the last `kept` of `filled` tokens of one block and episode to the first slots."""
    gone = filled - kept
    for row in range(shape.kv_heads * shape.head):
        at = key_at + row * shape.slots
        for slot in range(kept):
            keys[at + slot] = keys[at + gone + slot]
    for kv in range(shape.kv_heads):
        at = value_at + kv * shape.slots * shape.padded_head
        for i in range(kept * shape.padded_head):
            values[at + i] = values[at + gone * shape.padded_head + i]
