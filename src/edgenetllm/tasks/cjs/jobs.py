"""Which jobs arrive when: drawn as the public simulator draws them, or replayed from a file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass as validated

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.profiles import ProfileData

COLUMNS = ["query", "size", "arrival_ms"]

T = TypeVar("T", int, str)


@dataclass(frozen=True)
class Job:
    profile: int  # index in the profiles of the data set
    arrival_ms: float


@validated(config=ConfigDict(extra="forbid"))
class Mix:
    """The workload of an episode.

    A job's query and size are drawn independently, uniformly unless weighted; arrivals are a Poisson process that starts
    with a job at time zero. With `recorded`, the first `jobs` of a list are read instead, and no other field matters.
    """

    jobs: PositiveInt  # in an episode
    rate_per_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]  # arrivals per millisecond
    queries: list[int] | None = None  # null: all of the data set
    sizes: list[str] | None = None
    query_weights: list[float] | None = None  # in the order of `queries`, need not add up to one; null: all alike
    size_weights: list[float] | None = None
    recorded: Path | None = None  # CSV with the header query,size,arrival_ms, in order of arrival; see read_recorded

    def draw(self, seed: int, data: ProfileData) -> list[Job]:
        """`jobs` jobs in order of arrival, a function of the seed.

        Raises UserError that names the override, or file and line, of a query, size, weight or arrival that cannot be.
        """
        if self.recorded is not None:
            jobs = read_recorded(self.recorded, data)
            if len(jobs) < self.jobs:
                raise UserError(f"{self.recorded} has {len(jobs)} jobs, fewer than data.jobs={self.jobs}")
            return jobs[: self.jobs]
        queries = _chosen("queries", self.queries, data.known_queries, data.name)
        sizes = _chosen("sizes", self.sizes, data.known_sizes, data.name)
        query_shares = _shares("query_weights", self.query_weights, len(queries))
        size_shares = _shares("size_weights", self.size_weights, len(sizes))
        rng = np.random.default_rng(seed)
        jobs, arrival_ms = [], 0.0
        for _ in range(self.jobs):  # without weights, the draws and their order are those of spark-sched-sim
            query = rng.integers(len(queries)) if query_shares is None else rng.choice(len(queries), p=query_shares)
            size = rng.choice(len(sizes), p=size_shares)
            jobs.append(Job(data.index(queries[int(query)], sizes[int(size)]), arrival_ms))
            arrival_ms += rng.exponential(1 / self.rate_per_ms)
        return jobs


def _chosen(field: str, wanted: Sequence[T] | None, known: Sequence[T], data: str) -> Sequence[T]:
    if wanted is None:
        return known
    if not wanted:
        raise UserError(f"data.{field}=[]: choose at least one of {_listed(known)}, or null for all")
    for value in wanted:
        if value not in known:
            raise UserError(f"data.{field}={list(wanted)}: data={data} has no {value}, but {_listed(known)}")
    return wanted


def _shares(field: str, weights: Sequence[float] | None, count: int) -> list[float] | None:
    """Weights scaled to a sum of one."""
    if weights is None:
        return None
    if len(weights) != count:
        raise UserError(
            f"data.{field}={list(weights)}: {len(weights)} weights for {count} {field.split('_')[0]} values"
        )
    if any(not (isfinite(weight) and weight >= 0) for weight in weights) or not sum(weights) > 0:
        raise UserError(f"data.{field}={list(weights)}: weights are finite, not negative, and not all zero")
    return [weight / sum(weights) for weight in weights]


def read_recorded(path: Path, data: ProfileData) -> list[Job]:
    """All jobs of a recorded list. Arrivals count from the first one's, so that the origin of its clock does not matter.

    Raises UserError that names the file, and the line, of what cannot be read.
    """
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(f"data.recorded={path} cannot be read ({error})") from None
    numbered = [
        (line, [value.strip() for value in row])
        for line, row in enumerate(rows, start=1)
        if any(value.strip() for value in row) and not row[0].lstrip().startswith("#")
    ]
    if not numbered or numbered[0][1] != COLUMNS:
        line = numbered[0][0] if numbered else 1
        raise UserError(f"{path}, line {line}: expected the header {','.join(COLUMNS)}")
    jobs: list[Job] = []
    for line, row in numbered[1:]:
        try:
            job = _recorded_job(row, data)
            if jobs and job.arrival_ms < jobs[-1].arrival_ms:
                raise ValueError("it arrives before the job above")
        except ValueError as error:
            raise UserError(f"{path}, line {line}: {error}") from None
        jobs.append(job)
    if not jobs:
        raise UserError(f"{path} holds no jobs below its header")
    return [Job(job.profile, job.arrival_ms - jobs[0].arrival_ms) for job in jobs]


def _recorded_job(row: Sequence[str], data: ProfileData) -> Job:
    """Raises ValueError that says what is wrong with the row."""
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} values, expected {','.join(COLUMNS)}")
    query, size, arrival = row
    if query not in map(str, data.known_queries):
        raise ValueError(f"data={data.name} has no query {query}, but {_listed(data.known_queries)}")
    if size not in data.known_sizes:
        raise ValueError(f"data={data.name} has no size {size}, but {_listed(data.known_sizes)}")
    try:
        arrival_ms = float(arrival)
    except ValueError:
        raise ValueError(f"arrival_ms is {arrival}, not a number") from None
    if not (isfinite(arrival_ms) and arrival_ms >= 0):
        raise ValueError(f"arrival_ms is {arrival}, expected a finite number, not negative")
    return Job(data.index(int(query), size), arrival_ms)


def _listed(values: Sequence[int] | Sequence[str]) -> str:
    return ", ".join(map(str, values))
