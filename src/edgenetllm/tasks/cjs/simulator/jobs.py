"""The jobs that arrive and their times: drawn as the public simulator draws them, or replayed from a file."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass as validated

from edgenetllm.errors import UserError
from edgenetllm.reading import listed, plain, read_lines
from edgenetllm.tasks.cjs.simulator.profiles import Axis, ProfileData

ARRIVAL = "arrival_ms"  # the last column of a recorded list
LARGEST_LIST = 16 * 2**20  # bytes
MOST_JOBS = 100_000  # of a recorded list
LATEST_MS = 1e13  # 300 years, also where the clock counts from 1970; beyond it a millisecond would be lost


@dataclass(frozen=True)
class Job:
    profile: int  # index in the profiles of the data set
    arrival_ms: float


@validated(config=ConfigDict(extra="forbid"))
class Mix:
    """The workload of an episode.

    A job's profile is drawn axis by axis (query and size, or name), each uniformly unless weighted; arrivals are a Poisson
    process that starts with a job at time zero. With `recorded`, the first `jobs` of a list are read instead, and no other
    field matters. Fields of axes that the data set does not have stay null.
    """

    jobs: PositiveInt  # in an episode
    rate_per_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]  # arrivals per millisecond
    queries: list[int] | None = None  # null, here and below: all of the data set
    sizes: list[str] | None = None
    query_weights: list[float] | None = None  # in the order of `queries`, need not add up to one; null: all alike
    size_weights: list[float] | None = None
    # Names of one's own profiles. Not in the text of a mix, by which the data of the public sets is known.
    names: list[str] | None = Field(default=None, repr=False)
    name_weights: list[float] | None = Field(default=None, repr=False)
    recorded: Path | None = (
        None  # CSV with a header such as query,size,arrival_ms, in order of arrival; see read_recorded
    )

    def draw(self, seed: int, data: ProfileData) -> list[Job]:
        """`jobs` jobs in order of arrival, a function of the seed.

        Raises UserError that names the override, or file and line, of a profile, weight or arrival that cannot be.
        """
        if self.recorded is not None:
            jobs = read_recorded(self.recorded, data)
            if len(jobs) < self.jobs:
                raise UserError(f"{self.recorded} has {len(jobs)} jobs, fewer than data.jobs={self.jobs}")
            return jobs[: self.jobs]
        chosen = [_chosen(axis, getattr(self, axis.option), data.name) for axis in data.axes]
        probabilities = [
            _probabilities(axis, getattr(self, axis.weights), len(values))
            for axis, values in zip(data.axes, chosen, strict=True)
        ]
        rng = np.random.default_rng(seed)
        jobs, arrival_ms = [], 0.0
        for _ in range(self.jobs):  # the draws and their order are those of spark-sched-sim
            drawn = [
                values[int(rng.choice(len(values), p=chances))]
                for values, chances in zip(chosen, probabilities, strict=True)
            ]
            jobs.append(Job(profile_number(data, drawn), arrival_ms))
            arrival_ms += rng.exponential(1 / self.rate_per_ms)
        return jobs


def profile_number(data: ProfileData, values: Sequence[int | str]) -> int:
    """The place of the profile with these values, one for each axis, in `data.profiles()`. Raises ValueError for others."""
    number = 0
    for axis, value in reversed(list(zip(data.axes, values, strict=True))):
        number = number * len(axis.values) + axis.values.index(value)
    return number


def _chosen(axis: Axis, selected: Sequence[int | str] | None, data: str) -> Sequence[int | str]:
    """The values to draw from."""
    if selected is None:
        return axis.values
    if not selected:
        raise UserError(f"data.{axis.option}=[]: choose at least one of {_choices(axis)}, or null for all")
    for value in selected:
        if value not in axis.values:
            raise UserError(f"data.{axis.option}={list(selected)}: data={data} has no {value}, but {_choices(axis)}")
    return selected


def _probabilities(axis: Axis, weights: Sequence[float] | None, count: int) -> list[float] | None:
    """Weights scaled to a sum of one."""
    if weights is None:
        return None
    if len(weights) != count:
        raise UserError(f"data.{axis.weights}={list(weights)}: {len(weights)} weights for {count} {axis.column} values")
    if any(not (isfinite(weight) and weight >= 0) for weight in weights) or not sum(weights) > 0:
        raise UserError(f"data.{axis.weights}={list(weights)}: weights are finite, not negative, and not all zero")
    return [weight / sum(weights) for weight in weights]


def read_recorded(path: Path, data: ProfileData) -> list[Job]:
    """All jobs of a recorded list. Arrivals count from the first one's, so that the origin of its clock does not matter.

    Raises UserError that names the file, and the line, of what cannot be read.
    """
    # The header.
    if not path.is_file():
        raise UserError(f"data.recorded={path} cannot be read: there is no such file")
    rows = _rows(path)
    line, first = next(rows, (1, []))
    header = _header(data)
    if first != header:
        raise UserError(f"{path}, line {line}: expected the header {','.join(header)}")
    # A job for each row below it.
    known = [{str(value): value for value in axis.values} for axis in data.axes]
    jobs: list[Job] = []
    for line, row in rows:
        try:
            job = _recorded_job(row, data, known)
            if jobs and job.arrival_ms < jobs[-1].arrival_ms:
                raise ValueError("it arrives before the job above")
        except ValueError as error:
            raise UserError(f"{path}, line {line}: {error}") from None
        jobs.append(job)
        if len(jobs) > MOST_JOBS:
            raise UserError(f"{path}, line {line}: more than {MOST_JOBS:,} jobs")
    if not jobs:
        raise UserError(f"{path} holds no jobs below its header")
    return [Job(job.profile, job.arrival_ms - jobs[0].arrival_ms) for job in jobs]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with their line numbers, without blank lines and comments."""
    parsed = csv.reader(read_lines(path, LARGEST_LIST))
    try:
        for row in parsed:
            values = [value.strip() for value in row]
            if any(values) and not values[0].startswith("#"):
                yield parsed.line_num, values
    except csv.Error as error:
        raise UserError(f"{path}, line {parsed.line_num}: not a CSV ({error})") from None


def _header(data: ProfileData) -> list[str]:
    return [*(axis.column for axis in data.axes), ARRIVAL]


def _recorded_job(row: Sequence[str], data: ProfileData, known: Sequence[Mapping[str, int | str]]) -> Job:
    """A row as a job; `known`: text -> value, for each axis. Raises ValueError that says what is wrong with the row."""
    if len(row) != len(known) + 1:
        raise ValueError(f"{len(row)} values, expected {','.join(_header(data))}")
    *written, arrival = row
    values = []
    for axis, texts, text in zip(data.axes, known, written, strict=True):
        if text not in texts:
            raise ValueError(f"data={data.name} has no {axis.column} {plain(text)}, but {_choices(axis)}")
        values.append(texts[text])
    try:
        arrival_ms = float(arrival if arrival.isascii() and "_" not in arrival else "no number")
    except ValueError:
        raise ValueError(f"arrival_ms is {plain(arrival)}, not a number") from None
    if not 0 <= arrival_ms <= LATEST_MS:
        raise ValueError(
            f"arrival_ms is {plain(arrival)}, expected a finite number, not negative, at most {LATEST_MS:.0f}"
        )
    return Job(profile_number(data, values), arrival_ms)


def _choices(axis: Axis) -> str:
    return listed(axis.values, most=30)
