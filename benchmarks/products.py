"""Milliseconds of all matrix products of a decoder step, dense and sparse: python benchmarks/products.py

The matrices are those of SmolLM2-135M's blocks (the only ones that matter in a step of few tokens) with random values and
random masks. One thread; CPU time; all rows are measured in turns, so that a busy machine slows all alike. The floor is the
time to read the packed bytes at the bandwidth that a plain sum over 256 MB reaches in the same run.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numba
import numpy as np
import numpy.typing as npt

from edgenetllm.edge.compiled.cache import cached_njit
from edgenetllm.edge.compiled.instructions import CHOICES, chosen
from edgenetllm.edge.compiled.layouts import Layout, aligned_bytes, pack
from edgenetllm.edge.compiled.products import multiply, plane_bytes, quantise
from edgenetllm.edge.quantised import QuantisedMatrix

# q, k, v, o, gate, up and down of a block, (out, in).
SHAPES = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)]
WIDEST = 1536


@numba.njit(nogil=True)
def all_products(arena, infos, offsets, x, planes, scales, out, m, vector):  # type: ignore
    for matrix in range(len(offsets)):
        multiply(arena, infos[matrix], offsets[matrix], x, planes, scales, out, m, vector)


@cached_njit()
def total(values: npt.NDArray[np.int64]) -> int:
    result = 0
    for value in values:
        result += value
    return result


@dataclass
class Weights:
    """The packed matrices of all blocks, one after the other."""

    name: str
    arena: npt.NDArray[np.uint8]
    infos: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]


@dataclass
class Row:
    """One line of the table: times in milliseconds."""

    weights: str
    tokens: int
    megabytes: float
    bytes_per_weight: float
    floor_ms: float
    best_ms: float
    median_ms: float
    gb_per_s: float  # packed bytes over the median


def weights(blocks: int, zeros: float, layout: Layout | None, seed: int = 0) -> Weights:
    """Matrices of `blocks` decoder blocks with that fraction of zeros."""
    rng = np.random.default_rng(seed)
    matrices = []
    for shape in SHAPES * blocks:
        values = rng.integers(1, 128, shape, np.int8) * (rng.random(shape, np.float32) >= zeros)
        matrices.append(pack(QuantisedMatrix(values.astype(np.int8), np.ones((shape[0], 1), np.float32)), layout))
    ends = np.cumsum([packed.nbytes for packed in matrices])
    arena = aligned_bytes(int(ends[-1]))
    offsets = ends - [packed.nbytes for packed in matrices]
    for packed, offset in zip(matrices, offsets, strict=True):
        arena[offset:][: packed.nbytes] = packed.data
    name = f"{zeros:.0%} zeros, {matrices[0].layout.name.lower()}"
    return Weights(name, arena, np.stack([packed.info for packed in matrices]), offsets)


def bandwidth() -> float:
    """Bytes a second that one thread reads."""
    values = np.ones(2**25, np.int64)
    times = []
    for _ in range(6):
        began = time.thread_time()
        total(values)
        times.append(time.thread_time() - began)
    return values.nbytes / min(times)


def measure(candidates: list[Weights], tokens: list[int], rounds: int, vector: bool) -> list[Row]:
    size = sum(rows * columns for rows, columns in SHAPES) * len(candidates[0].offsets) // len(SHAPES)
    speed, result = bandwidth(), []
    for m in tokens:
        x = np.random.default_rng(0).standard_normal((m, WIDEST)).astype(np.float32)
        planes, scales, out = aligned_bytes(plane_bytes(m, WIDEST)), np.zeros(m, np.float32), np.zeros_like(x)
        quantise(x, planes, scales, m)
        times: list[list[float]] = [[] for _ in candidates]
        for _ in range(rounds + 1):
            for one, elapsed in zip(candidates, times, strict=True):
                began = time.thread_time()
                all_products(one.arena, one.infos, one.offsets, x, planes, scales, out, m, vector)
                elapsed.append(time.thread_time() - began)
        for one, elapsed in zip(candidates, times, strict=True):
            count, middle = one.arena.nbytes, float(np.median(elapsed[1:]))  # the first round compiles
            result.append(
                Row(
                    one.name,
                    m,
                    count / 1e6,
                    count / size,
                    count / speed * 1e3,
                    min(elapsed[1:]) * 1e3,
                    middle * 1e3,
                    count / middle / 1e9,
                )
            )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 3, 8])
    parser.add_argument("--zeros", type=float, nargs="+", default=[0.0, 0.4, 0.6, 0.8, 0.9, 0.95])
    parser.add_argument(
        "--layout", choices=["dense", "bitmask", "tiles"], help="for all matrices; default: by their zeros"
    )
    parser.add_argument("--instructions", choices=CHOICES, default="auto")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the table to this file")
    args = parser.parse_args()
    layout = Layout[args.layout.upper()] if args.layout else None
    candidates = [weights(args.blocks, zeros, layout) for zeros in args.zeros]
    rows = measure(candidates, args.tokens, args.rounds, chosen(args.instructions) == "avx512")
    titles = ("MB", 8), ("B/weight", 10), ("floor ms", 10), ("best", 8), ("median", 8), ("GB/s", 7), ("x first", 9)
    print(f"{'weights':24}{'tokens':>8}" + "".join(f"{title:>{width}}" for title, width in titles))
    for row in rows:
        first = next(other for other in rows if other.tokens == row.tokens)
        print(
            f"{row.weights:24}{row.tokens:8}{row.megabytes:8.1f}{row.bytes_per_weight:10.3f}{row.floor_ms:10.2f}"
            f"{row.best_ms:8.2f}{row.median_ms:8.2f}{row.gb_per_s:7.1f}{first.median_ms / row.median_ms:9.2f}"
        )
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


if __name__ == "__main__":
    main()
