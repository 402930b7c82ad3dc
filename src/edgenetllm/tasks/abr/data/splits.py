"""Splits that do not leak: traces that share a run of samples stay on one side, and the public test set stays whole.

A run counts from 40 samples on, and only with 5 or more different values in it: an outage, or a plan's cap, is the same in
recordings that have nothing to do with each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.traces import Trace, join
from edgenetllm.tasks.task import SPLITS, Split

RUN = 40  # identical samples in a row that make two traces the same recording, if they have
BASE = 0x9E3779B97F4A7C15  # of the hash of a run: odd, so that it has an inverse
VALUES = 5  # different values or more; with 2 to 5 of them the public sets are grouped alike


@dataclass
class Splits:
    train: list[Trace]
    val: list[Trace]
    test: list[Trace]
    dropped: int  # traces that share a run with one of another split
    dropped_also: int = 0  # traces that share none with these, but with one of another test set
    also: tuple[str, ...] = ()  # the other test sets that were looked at
    altered: int = 0  # training traces that are altered copies of others
    kept_shared: int = 0  # traces that would have been dropped, but for `data.allow_shared=true`
    remedy: str = ""  # what to type where a split is empty

    def of(self, split: Split, source: str) -> list[Trace]:
        """The traces of a split. Raises UserError, naming the data `source`, where there are none."""
        traces: list[Trace] = getattr(self, split)
        if not traces:
            dropped = self.dropped + self.dropped_also
            why = f": {dropped} were dropped because they share recordings with another split" if dropped else ""
            raise UserError(f"data={source} has no {split} traces{why}; {self.remedy}")
        return traces

    def sha256(self, splits: Sequence[Split] = SPLITS) -> str:
        """Identity of the names and samples of the traces of these splits."""
        digest = hashlib.sha256()
        for split in splits:
            traces: list[Trace] = getattr(self, split)
            starts = np.ones(len(traces), np.int64)  # where sessions start is not said here
            digest.update(join(traces, starts).sha256().encode())
        return digest.hexdigest()

    def describe(self) -> str:
        copies = f" ({self.altered} of them altered copies)" if self.altered else ""
        text = (
            f"{len(self.train)} train{copies}, {len(self.val)} validation, {len(self.test)} test traces; dropped "
            f"{self.dropped} that share {RUN} or more samples in a row with a trace of another split"
        )
        text += f", {self.dropped_also} with one of {', '.join(self.also)}" if self.also else ""
        return text + (f"; {self.shared_note()}" if self.kept_shared else "")

    def shared_note(self) -> str:
        """Notes for a reader of the results where shared recordings were allowed; empty where there are none."""
        if not self.kept_shared:
            return ""
        return (
            f"{self.kept_shared} training and validation traces share {RUN} or more samples in a row with a trace of "
            "another split (data.allow_shared=true): the results are not those of unseen traces"
        )


def split(
    folders: Sequence[Sequence[Trace]],
    test: list[Trace],
    validation: int | Sequence[int],
    seed: int,
    also: Sequence[Trace] = (),
    allow_shared: bool = False,
) -> Splits:
    """Drop from `folders` whatever shares a run with `test` or `also`, then move whole groups to validation until it has
    `validation` traces of all folders together, or that many of each. Groups of more than a tenth of that stay in training.
    With `allow_shared` nothing is dropped, only counted.
    """
    # Groups of traces that share a run; the folder that each came from.
    pool = [trace for folder in folders for trace in folder]
    origin = np.repeat(np.arange(len(folders)), [len(folder) for folder in folders])
    if isinstance(validation, int):
        validation, origin = [validation], np.zeros(len(pool), np.int64)
    group = groups([*pool, *test, *also])
    # Drop whatever belongs to a group of the test set or of `also`.
    in_test = set(group[len(pool) : len(pool) + len(test)].tolist())
    forbidden = set(group[len(pool) :].tolist())
    shared = [number for number in range(len(pool)) if int(group[number]) in forbidden]
    gone = set() if allow_shared else set(shared)
    usable = [number for number in range(len(pool)) if number not in gone]
    dropped = sum(int(group[number]) in in_test for number in gone)
    # Move whole groups to validation, folder by folder, in an order that the seed gives.
    members: dict[int, list[int]] = {}
    for number in usable:
        members.setdefault(int(group[number]), []).append(number)
    val: set[int] = set()
    order = np.random.default_rng(seed).permutation(sorted(members))
    for folder, count in enumerate(validation):
        own = {number for number in usable if origin[number] == folder}
        for name in order:
            if len(val & own) >= count:
                break
            if len(members[int(name)]) <= max(1, count // 10) and own & set(members[int(name)]):
                val.update(members[int(name)])
    return Splits(
        train=[pool[number] for number in usable if number not in val],
        val=[pool[number] for number in usable if number in val],
        test=test,
        dropped=dropped,
        dropped_also=len(gone) - dropped,
        kept_shared=len(shared) - len(gone),
    )


def divided(train: list[Trace], val: list[Trace], test: list[Trace], allow_shared: bool = False) -> Splits:
    """Given splits, less what leaks: validation traces that share a run with a test trace, training traces that share one
    with either. With `allow_shared` nothing is dropped, only counted."""
    group = groups([*train, *val, *test]).tolist()
    of_train, of_val, of_test = (
        group[: len(train)],
        group[len(train) : len(train) + len(val)],
        group[len(train) + len(val) :],
    )
    clean_val = [trace for trace, name in zip(val, of_val, strict=True) if name not in set(of_test)]
    clean_train = [trace for trace, name in zip(train, of_train, strict=True) if name not in {*of_val, *of_test}]
    shared = len(train) + len(val) - len(clean_train) - len(clean_val)
    if allow_shared:
        return Splits(train, val, test, dropped=0, kept_shared=shared)
    return Splits(clean_train, clean_val, test, dropped=shared)


def groups(traces: list[Trace], run: int = RUN) -> npt.NDArray[np.int64]:
    """Group number of each trace, (traces,). Traces share it, directly or through others, that have in common

    - consecutive Mbps samples, `run` of them or more, with `VALUES` or more different values among them
    - or all their samples, with as many different values (traces shorter than `run`, say).
    """
    hashes = [_run_hashes(trace.mbps, run) for trace in traces]
    owner = np.repeat(np.arange(len(traces)), [len(values) for values in hashes])
    distinct, window = np.unique(np.concatenate(hashes), return_inverse=True)
    nodes = len(traces) + len(distinct)
    links = coo_array((np.ones(len(owner), bool), (owner, len(traces) + window)), shape=(nodes, nodes))
    _, label = connected_components(links, directed=False)
    return label[: len(traces)].astype(np.int64)


def _run_hashes(values: npt.NDArray[np.float64], run: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of the shortest run from every sample on that has `run` samples and `VALUES` different ones, and one
    of the whole trace. Two traces that share a longer run share that shortest one too.

    The hash of samples x0, x1, ... is the sum of mixed(xk) * BASE^k modulo 2^64, plus their number. Sums from the trace's
    beginning give that of any run at once, however long it is.
    """
    first = np.flatnonzero(lengths := _run_lengths(values, run))
    lengths = lengths[first]
    if len(np.unique(values)) >= VALUES:
        first, lengths = np.append(first, 0), np.append(lengths, len(values))
    bits = np.ascontiguousarray(values, np.float64).view(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (bits ^ (bits >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(32)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed * _powers(BASE, len(mixed)))])
        shifted = sums[first + lengths] - sums[first]  # the sum, times BASE^first
        return shifted * _powers(pow(BASE, -1, 2**64), len(mixed))[first] + lengths.astype(np.uint64)


def _powers(base: int, count: int) -> npt.NDArray[np.uint64]:
    """base^0, base^1, ... modulo 2^64, (count,)."""
    return np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(count - 1, base, np.uint64)]))


def _run_lengths(values: npt.NDArray[np.float64], run: int) -> npt.NDArray[np.int64]:
    """Samples in the shortest run that begins at each sample, (samples,); 0 where the trace ends before it is complete."""
    lengths = np.zeros(len(values), np.int64)
    nearest: dict[float, int] = {}  # the VALUES different values that come soonest, and where
    for first, value in reversed(list(enumerate(values.tolist()))):
        nearest.pop(value, None)
        nearest = {value: first, **nearest}
        if len(nearest) > VALUES:
            nearest.popitem()
        end = max(first + run, next(reversed(nearest.values())) + 1)
        if len(nearest) == VALUES and end <= len(values):
            lengths[first] = end - first
    return lengths
