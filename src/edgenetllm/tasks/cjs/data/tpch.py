"""Job profiles of the 22 TPC-H queries at 7 sizes of the data base, from the files that Decima and NetLLM publish.

    20g/adj_mat_7.npy         (stages, stages) float64 of 0 and 1: row i, column j is 1 where j needs the output of i
    20g/task_duration_7.npy   a pickled dictionary: stage -> wave -> executors of the job -> list of milliseconds

What is done to the durations is what the public simulator does when it loads them, `TPCHJobSequence` in spark-sched-sim.
"""

from __future__ import annotations

import io
import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.simulator.profiles import Profile, Stage

QUERIES = tuple(range(1, 23))
SIZES = ("2g", "5g", "10g", "20g", "50g", "80g", "100g")
WAVES = ("fresh_durations", "first_wave", "rest_wave")

Table = dict[int, list[int]]  # executors of the job -> milliseconds


def read_profiles(folder: Path) -> list[Profile]:
    """All queries of the smallest size, then of the next: the profile of (size s, query q) is at 22 s + q, from zero.

    Raises UserError that names file and job when a file is missing or is not of the form above.
    """
    return [read_profile(folder, query, size) for size in SIZES for query in QUERIES]


def read_profile(folder: Path, query: int, size: str) -> Profile:
    """One query at one size. Raises UserError as `read_profiles` does."""
    name = f"query {query} at {size}"
    edges_at, durations_at = (folder / size / f"{kind}_{query}.npy" for kind in ("adj_mat", "task_duration"))
    try:
        stages = tuple(_stage(tables) for tables in _stage_tables(durations_at))
        edges = _edges(edges_at, len(stages))
    except _BadFile as error:
        raise UserError(f"{error.args[0]}: job {name}: {error.args[1]}") from None
    return Profile(name, f"{durations_at}, {edges_at.name}", stages, edges)


class _BadFile(Exception):
    """An error that names a file and what is wrong with it."""


def _stage(tables: Mapping[str, Table]) -> Stage:
    """The number of tasks shows in any executor count: there the first and the further wave hold each task once."""
    first, rest = tables["first_wave"], tables["rest_wave"]
    any_key = next(iter(first))
    tasks = len(first[any_key]) + len(rest[any_key])
    return Stage(tasks, tables["fresh_durations"], _without_fresh(first, tables["fresh_durations"]), rest)


def _without_fresh(first: Table, fresh: Table) -> Table:
    """The first wave as published counts fresh tasks too: each fresh duration takes one equal one out, order is kept.

    Where nothing remains, the list of the next lower executor count is borrowed; the lowest may stay empty.
    """
    cleaned: Table = {}
    for executors in sorted(first):
        excess = dict(Counter(fresh.get(executors, ())))
        row = []
        for duration in first[executors]:
            if excess.get(duration, 0):
                excess[duration] -= 1
            else:
                row.append(duration)
        cleaned[executors] = row or next(reversed(cleaned.values()), [])
    return cleaned


def _edges(path: Path, stages: int) -> tuple[tuple[int, int], ...]:
    try:
        matrix = np.load(io.BytesIO(_bytes(path)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _BadFile(path, f"not a matrix in the form of numpy ({error})") from None
    if not isinstance(matrix, np.ndarray) or matrix.shape != (stages, stages) or not np.isin(matrix, (0, 1)).all():
        raise _BadFile(path, f"expected zeros and ones for {stages} x {stages} stages")
    sources, targets = np.nonzero(matrix)
    return tuple(zip(sources.tolist(), targets.tolist(), strict=True))


def _stage_tables(path: Path) -> list[dict[str, Table]]:
    """Wave -> table for each stage, after a check of every key and value."""
    published = _unpickle(path)
    if not isinstance(published, dict) or not published or published.keys() != set(range(len(published))):
        raise _BadFile(path, "expected a dictionary with stages 0, 1, 2, ...")
    for stage, tables in published.items():
        if not isinstance(tables, dict) or set(tables) != set(WAVES):
            raise _BadFile(path, f"stage {stage} lacks one of {', '.join(WAVES)}")
        for wave, table in tables.items():
            if not isinstance(table, dict) or not table or any(type(key) is not int for key in table):
                raise _BadFile(path, f"stage {stage}, {wave}: expected lists by number of executors")
            for executors, row in table.items():
                if type(row) is not list or not set(map(type, row)) <= {int}:
                    raise _BadFile(path, f"stage {stage}, {wave}, {executors} executors: expected whole milliseconds")
        if tables["rest_wave"].keys() != tables["first_wave"].keys():
            raise _BadFile(path, f"stage {stage}: first and further wave know different numbers of executors")
    return [published[stage] for stage in range(len(published))]


def _unpickle(path: Path) -> Any:
    """The one object of an array without dimensions: the header as numpy reads it, the body by `_OnlyNumbers`."""
    file = io.BytesIO(_bytes(path))
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read(file)
        if shape != () or not dtype.hasobject:
            raise ValueError(f"an array of {dtype} {shape}, not one object")
        array = _OnlyNumbers(file, encoding="latin1").load()
        return array.state[-1][0]
    except _BadFile as error:
        raise _BadFile(path, error.args[0]) from None
    except Exception as error:  # a garbled pickle may raise nearly anything
        raise _BadFile(path, f"not a dictionary in the form of numpy ({type(error).__name__}: {error})") from None


class _Inert:
    """Stands for numpy's classes while unpickling: keeps the state of the array, whose last entry is its list of objects."""

    state: Any = None

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state


class _OnlyNumbers(pickle.Unpickler):
    """Builds dictionaries, lists and numbers. Three names of numpy become `_Inert`; no other can be called or imported."""

    _names = frozenset(
        [("numpy", "ndarray"), ("numpy", "dtype")]
        + [(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")]  # numpy 1 and 2
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise _BadFile(f"its pickle asks for {module}.{name}, which job profiles have no use for; it was not run")
        return _Inert


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _BadFile(path, f"cannot be read ({error.strerror})") from None
