"""Job profiles of the 22 TPC-H queries at 7 sizes of the data base, from the files that Decima and NetLLM publish.

    20g/adj_mat_7.npy         (stages, stages) float64 of 0 and 1: row i, column j is 1 where j needs the output of i
    20g/task_duration_7.npy   a pickled dictionary: stage -> wave -> executors of the job -> list of milliseconds

What is done to the durations is what the public simulator does when it loads them, `TPCHJobSequence` in spark-sched-sim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.data.limits import LONGEST_MS, MOST_EXECUTORS, MOST_STAGES, check_durations, check_limits
from edgenetllm.tasks.cjs.data.npy import numbers, split
from edgenetllm.tasks.cjs.data.pickled import Foreign, unpickled_array
from edgenetllm.tasks.cjs.simulator.profiles import Profile, Stage
from edgenetllm.reading import plain, read_bytes, shown

LARGEST_FILE = 2**19  # bytes; the public ones have at most 100 kB
MOST_COUNTS = 100  # of executors, in one table; the public ones have at most 8
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
    """One query at one size. Raises UserError as `read_profiles` does, also for what is beyond limits.py."""
    name = f"query {query} at {size}"
    edges_at, durations_at = (folder / size / f"{kind}_{query}.npy" for kind in ("adj_mat", "task_duration"))
    try:
        stages = tuple(_stage(tables) for tables in _stage_tables(durations_at))
        edges = _edges(edges_at, len(stages))
        profile = Profile(name, f"{durations_at}, {edges_at.name}", stages, edges)
        _attempt(durations_at, "", check_limits, profile)
    except _BadFile as error:
        raise UserError(f"{error.args[0]}: job {name}: {error.args[1]}") from None
    return profile


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
    matrix = _attempt(path, "not a matrix in the form of numpy: ", numbers, _bytes(path))
    if matrix.shape != (stages, stages) or not np.isin(matrix, (0, 1)).all():
        raise _BadFile(path, f"expected zeros and ones for {stages} x {stages} stages")
    sources, targets = np.nonzero(matrix)
    return tuple(zip(sources.tolist(), targets.tolist(), strict=True))


def _stage_tables(path: Path) -> list[dict[str, Table]]:
    """Wave -> table for each stage, after a check of every key and value."""
    # The form: stages, waves, tables.
    published = _unpickle(path)
    if not isinstance(published, dict) or not 0 < len(published) <= MOST_STAGES:
        raise _BadFile(path, "expected a dictionary with stages 0, 1, 2, ...")
    if any(type(stage) is not int for stage in published) or published.keys() != set(range(len(published))):
        raise _BadFile(path, "expected a dictionary with stages 0, 1, 2, ...")
    durations = 0
    for stage, tables in published.items():
        if not isinstance(tables, dict) or set(tables) != set(WAVES):
            raise _BadFile(path, f"stage {stage} lacks one of {', '.join(WAVES)}")
        for wave, table in tables.items():
            where = f"stage {stage}, {wave}"
            counts = isinstance(table, dict) and 0 < len(table) <= MOST_COUNTS
            if not counts or any(type(key) is not int for key in table):
                raise _BadFile(path, f"{where}: expected lists by number of executors")
            for executors, row in table.items():
                if not 1 <= executors <= MOST_EXECUTORS or type(row) is not list:
                    raise _BadFile(path, f"{where}: {shown(executors)} is no number of executors with a list")
                durations += len(row)
                _attempt(path, "", check_durations, durations)
                _check_row(path, f"{where}, {executors} executors", row)
        if tables["rest_wave"].keys() != tables["first_wave"].keys():
            raise _BadFile(path, f"stage {stage}: first and further wave know different numbers of executors")
    return [published[stage] for stage in range(len(published))]


def _check_row(path: Path, where: str, row: list[Any]) -> None:
    if not set(map(type, row)) <= {int}:
        raise _BadFile(path, f"{where}: expected whole milliseconds")
    if row and not 0 <= min(row) <= max(row) <= LONGEST_MS:
        odd = min(row) if min(row) < 0 else max(row)
        raise _BadFile(path, f"{where}: {shown(odd)} ms, expected from 0 to {LONGEST_MS:.0f}")


def _unpickle(path: Path) -> Any:
    """The one object of an array without dimensions."""
    text = "not a dictionary in the form of numpy: "
    header, body = _attempt(path, text, split, _bytes(path))
    if header.shape != () or not header.type.endswith("O"):
        type_name = "object" if header.type.endswith("O") else header.type
        raise _BadFile(path, f"{text}an array of {type_name} {header.shape}, not one object")
    return _attempt(path, text, unpickled_array, body)


def _attempt(path: Path, text: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """The value of a function; its error names the file, after `text`."""
    try:
        return function(*arguments)
    except Foreign as error:
        raise _BadFile(path, str(error)) from None
    except Exception as error:  # a garbled pickle may raise nearly anything
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise _BadFile(path, f"{text}{kind}{plain(str(error), 200)}") from None


def _bytes(path: Path) -> bytes:
    try:
        return read_bytes(path, LARGEST_FILE)
    except UserError as error:
        raise _BadFile(path, str(error).removeprefix(f"{path} ")) from None
