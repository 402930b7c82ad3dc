"""Splits that do not leak: traces that share a run of samples stay on one side, and the public test set stays whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from edgenetllm.tasks.abr.traces import Trace

RUN = 40  # identical samples in a row that make two traces the same recording


@dataclass
class Splits:
    train: list[Trace]
    val: list[Trace]
    test: list[Trace]
    dropped: int  # traces that share a run with one of another split
    dropped_also: int = 0  # traces that share none with these, but with one of another test set
    also: tuple[str, ...] = ()  # the other test sets that were looked at
    altered: int = 0  # training traces that are altered copies of others

    def describe(self) -> str:
        copies = f" ({self.altered} of them altered copies)" if self.altered else ""
        text = (
            f"{len(self.train)} train{copies}, {len(self.val)} validation, {len(self.test)} test traces; dropped "
            f"{self.dropped} that share {RUN} or more samples in a row with a trace of another split"
        )
        return text + (f", {self.dropped_also} with one of {', '.join(self.also)}" if self.also else "")


def split(
    folders: Sequence[Sequence[Trace]],
    test: list[Trace],
    validation: int | Sequence[int],
    seed: int,
    also: Sequence[Trace] = (),
) -> Splits:
    """Drop from `folders` whatever shares a run with `test` or `also`, then move whole groups to validation until it has
    `validation` traces of all folders together, or that many of each. Groups of more than a tenth of that stay in training.
    """
    pool = [trace for folder in folders for trace in folder]
    origin = np.repeat(np.arange(len(folders)), [len(folder) for folder in folders])
    if isinstance(validation, int):
        validation, origin = [validation], np.zeros(len(pool), np.int64)
    group = groups([*pool, *test, *also])
    in_test = set(group[len(pool) : len(pool) + len(test)].tolist())
    forbidden = set(group[len(pool) :].tolist())
    kept = [number for number in range(len(pool)) if int(group[number]) not in forbidden]
    dropped = sum(int(name) in in_test for name in group[: len(pool)])
    members: dict[int, list[int]] = {}
    for number in kept:
        members.setdefault(int(group[number]), []).append(number)
    val: set[int] = set()
    order = np.random.default_rng(seed).permutation(sorted(members))
    for folder, count in enumerate(validation):
        own = {number for number in kept if origin[number] == folder}
        for name in order:
            if len(val & own) >= count:
                break
            if len(members[int(name)]) <= max(1, count // 10) and own & set(members[int(name)]):
                val.update(members[int(name)])
    return Splits(
        train=[pool[number] for number in kept if number not in val],
        val=[pool[number] for number in kept if number in val],
        test=test,
        dropped=dropped,
        dropped_also=len(pool) - len(kept) - dropped,
    )


def groups(traces: list[Trace], run: int = RUN) -> npt.NDArray[np.int64]:
    """Group number of each trace, (traces,): traces that share `run` identical consecutive Mbps samples share it,
    directly or through others. Traces shorter than `run` share it only when they are equal."""
    hashes = [_window_hashes(trace.mbps, run) for trace in traces]
    owner = np.repeat(np.arange(len(traces)), [len(values) for values in hashes])
    _, window = np.unique(np.concatenate(hashes), return_inverse=True)
    links = coo_array((np.ones(len(owner), bool), (owner, len(traces) + window)))
    nodes = len(traces) + int(window.max()) + 1
    links.resize(nodes, nodes)
    _, label = connected_components(links, directed=False)
    return label[: len(traces)].astype(np.int64)


def _window_hashes(values: npt.NDArray[np.float64], run: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of every window of `run` samples (of the whole trace, if it is shorter)."""
    bits = np.ascontiguousarray(values, np.float64).view(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (bits ^ (bits >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(32)
        weights = np.random.default_rng(0).integers(1, 2**63, max(run, len(values)), dtype=np.uint64)
        if len(values) < run:
            return np.array([(mixed * weights[: len(values)]).sum() + np.uint64(len(values))], np.uint64)
        windows = np.lib.stride_tricks.sliding_window_view(mixed, run)
        return np.asarray((windows * weights[:run]).sum(1), np.uint64)
