"""`metrics.parquet`: every metric of every test episode and policy, as the task's `summarise` says."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from edgenetllm.errors import UserError
from edgenetllm.files import write_atomic
from edgenetllm.installation import command_of
from edgenetllm.report.results import PerEpisode
from edgenetllm.tasks.names import METRICS_COLUMNS, check_identifiers, check_policies
from edgenetllm.tasks.task import Metric

METRICS_FILE = "metrics.parquet"

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EpisodeMetrics:
    """Metrics of the test episodes, all policies in the same order of episodes."""

    episodes: list[str]  # names
    values: dict[str, dict[str, FloatArray]]  # policy -> metric -> (episodes,)
    bounds: frozenset[str]  # of the policies, those that nobody played: what none can exceed

    def of(self, metric: Metric) -> dict[str, FloatArray]:
        """Played policy -> (episodes,), of the policies that have this metric."""
        return {
            policy: metrics[metric.name]
            for policy, metrics in self.values.items()
            if policy not in self.bounds and metric.name in metrics
        }


def write_metrics(
    path: Path | str,
    per_episode: Mapping[str, PerEpisode],
    bounds: Mapping[str, PerEpisode],
    metrics: Sequence[Metric],
    episodes: Sequence[str],
    seeds: npt.NDArray[np.int64] | None = None,
) -> None:
    """Write a row per policy (then per bound) and episode, with a column per metric.

    `seeds` (episodes,) are those of the episodes. A policy has every metric; a bound may lack some, which are null.
    Raises UserError for names that cannot be columns or policies, ValueError for values that do not fit.
    """
    check_identifiers([metric.name for metric in metrics], "metrics", METRICS_COLUMNS)
    check_policies([*per_episode, *bounds], "policies")
    if both := set(per_episode) & set(bounds):
        raise UserError(f"a policy and a bound are both called {both.pop()!r}: give each a name of its own")
    tables = []
    for policy, found in [*per_episode.items(), *bounds.items()]:
        bound = policy in bounds
        columns: dict[str, pa.Array] = {
            "policy": pa.array([policy] * len(episodes), pa.string()),
            "episode": pa.array(list(episodes), pa.string()),
            "seed": pa.nulls(len(episodes), pa.int64()) if seeds is None else pa.array(seeds, pa.int64()),
            "bound": pa.array([bound] * len(episodes), pa.bool_()),
        }
        for metric in metrics:
            if bound and metric.name not in found:
                columns[metric.name] = pa.nulls(len(episodes), pa.float64())
            else:
                columns[metric.name] = pa.array(_checked(found, metric, policy, len(episodes)))
        tables.append(pa.table(columns))
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(tables), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def _checked(found: PerEpisode, metric: Metric, policy: str, episodes: int) -> FloatArray:
    if metric.name not in found:
        raise ValueError(
            f"summarise says nothing of {metric.name} for {policy}: it has {', '.join(found) or 'nothing'}"
        )
    values = np.asarray(found[metric.name], np.float64)
    if values.shape != (episodes,) or not np.isfinite(values).all():
        raise ValueError(
            f"summarise: {metric.name} of {policy} must be a finite number for each of {episodes} episodes, "
            f"but has the shape {values.shape} and {int((~np.isfinite(values)).sum())} values that are not finite"
        )
    return values


def read_metrics(path: Path | str, metrics: Sequence[Metric]) -> EpisodeMetrics:
    """The values that `write_metrics` wrote of these metrics.

    Raises UserError when the file is absent, damaged, lacks one of the metrics, or has policies with different episodes.
    """
    names = [metric.name for metric in metrics]
    try:
        table = pq.read_table(path, memory_map=False)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; if the run is of an older version, evaluate it again: {command_of('evaluate')} run=..."
        ) from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a readable parquet file: {str(error).splitlines()[0]}") from None
    missing = [name for name in (*METRICS_COLUMNS, *names) if name not in table.column_names]
    if missing:
        raise UserError(f"{path}: not the metrics of this run, the columns {missing} are missing")
    try:
        return _grouped(table, names, path)
    except pa.ArrowException as error:
        raise UserError(f"{path}: not the metrics of this run: {str(error).splitlines()[0]}") from None


def _grouped(table: pa.Table, names: Sequence[str], path: Path | str) -> EpisodeMetrics:
    """Rows by policy, in the order in which they were written."""
    policies = np.array(table["policy"].cast(pa.string()).to_pylist(), dtype=object)
    episodes = np.array(table["episode"].cast(pa.string()).to_pylist(), dtype=object)
    bound = np.array(table["bound"].to_pylist(), dtype=bool)
    columns = {name: table[name].cast(pa.float64()).to_numpy() for name in names}  # null -> NaN
    order = [str(policy) for policy in dict.fromkeys(policies)]
    check_policies(order, str(path))
    values: dict[str, dict[str, FloatArray]] = {}
    first: list[str] = []
    for policy in order:
        rows = policies == policy
        own = list(episodes[rows])
        first = first or own
        if own != first:
            raise UserError(f"{path}: {policy} has other episodes than {order[0]}")
        values[policy] = {name: column[rows] for name, column in columns.items() if not np.isnan(column[rows]).any()}
    return EpisodeMetrics(first, values, frozenset(policy for policy in order if bound[policies == policy].all()))
