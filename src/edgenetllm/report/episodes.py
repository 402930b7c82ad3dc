"""The two parquet files of a run: what every policy did in each test episode, and the metrics that the task makes of it.

`replay.parquet` has a row per decision of every policy, with the task's own record columns; `metrics.parquet` every metric of
every test episode and policy, as the task's `summarise` says.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from edgenetllm.errors import UserError
from edgenetllm.experience.ragged import RaggedColumn
from edgenetllm.experience.rollout import Episodes
from edgenetllm.files import write_atomic
from edgenetllm.installation import command_of
from edgenetllm.parquet_file import numbers, read_table, texts, truths
from edgenetllm.report.results import PerEpisode
from edgenetllm.tasks.names import (
    METRICS_COLUMNS,
    REASON,
    REPLAY_COLUMNS,
    check_episodes,
    check_identifiers,
    check_policies,
    check_record,
)
from edgenetllm.tasks.task import Metric, Task

METRICS_FILE = "metrics.parquet"
REPLAY_FILE = "replay.parquet"
INDEX = ("policy", "episode", "step")
REQUIRED = ("action", "reward")
NULLABLE = ("return_to_go", "decision_ms")

FloatArray = npt.NDArray[np.float64]
Columns = Mapping[str, npt.NDArray[np.generic] | RaggedColumn]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class EpisodeMetrics:
    """Metrics of the test episodes, all policies in the same order of episodes."""

    episodes: list[str]  # names
    values: dict[str, dict[str, FloatArray]]  # policy -> metric -> (episodes,)
    bounds: frozenset[str]  # of the policies, those that nobody played: what none can exceed

    def of(self, metric: Metric) -> dict[str, FloatArray]:
        """Played policy -> (episodes,), of the policies that have this metric."""
        played = {policy: figures for policy, figures in self.values.items() if policy not in self.bounds}
        return {policy: figures[metric.name] for policy, figures in played.items() if metric.name in figures}


def write_episodes_of(
    folder: Path,
    task: Task,
    played: Mapping[str, Episodes],
    per_episode: Mapping[str, PerEpisode],
    bounds: Mapping[str, PerEpisode],
    more: Mapping[str, Columns] = MappingProxyType({}),
) -> None:
    """Write `replay.parquet` and `metrics.parquet` of the test episodes into `folder`.

    `per_episode` is what `task.summarise` says of `played`, `bounds` what `task.bounds` says; `more` are further columns of
    a policy (`decision_ms`, `reason`). Raises UserError for names that
    would overwrite columns or cannot be stored.
    """
    names = task.episode_names("test")
    rows: dict[str, Columns] = {}
    for policy, episodes in played.items():
        check_record(episodes.record, type(task))
        rows[policy] = {"action": episodes.action, "reward": episodes.reward, **episodes.record}
        if episodes.return_to_go is not None:
            rows[policy] = {**rows[policy], "return_to_go": episodes.return_to_go}
        rows[policy] = {**rows[policy], **more.get(policy, {})}
    write_replay(folder / REPLAY_FILE, rows, names, {policy: episodes.valid for policy, episodes in played.items()})
    write_metrics(folder / METRICS_FILE, per_episode, bounds, task.metrics, names, task.seeds("test"))


def write_metrics(
    path: Path | str,
    per_episode: Mapping[str, PerEpisode],
    bounds: Mapping[str, PerEpisode],
    metrics: Sequence[Metric],
    episodes: Sequence[str],
    seeds: npt.NDArray[np.int64],
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
    for policy, figures in [*per_episode.items(), *bounds.items()]:
        bound, count = policy in bounds, len(episodes)
        columns: dict[str, pa.Array] = {
            "policy": pa.array([policy] * count, pa.string()),
            "episode": pa.array(list(episodes), pa.string()),
            "seed": pa.array(seeds, pa.int64()),
            "bound": pa.array([bound] * count, pa.bool_()),
        }
        for metric in metrics:
            if bound and metric.name not in figures:
                columns[metric.name] = pa.nulls(count, pa.float64())
            else:
                columns[metric.name] = pa.array(_checked(figures, metric, policy, count))
        tables.append(pa.table(columns))
    _write(path, pa.concat_tables(tables))


def _checked(figures: PerEpisode, metric: Metric, policy: str, episodes: int) -> FloatArray:
    if metric.name not in figures:
        raise ValueError(
            f"summarise says nothing of {metric.name} for {policy}: it has {', '.join(figures) or 'nothing'}"
        )
    values = np.asarray(figures[metric.name], np.float64)
    if values.shape != (episodes,) or not np.isfinite(values).all():
        raise ValueError(
            f"summarise: {metric.name} of {policy} must be a finite number for each of {episodes} episodes, "
            f"but has the shape {values.shape} and {int((~np.isfinite(values)).sum())} values that are not finite"
        )
    return values


def read_metrics(path: Path | str, metrics: Sequence[Metric]) -> EpisodeMetrics:
    """The values that `write_metrics` wrote of these metrics, policies in the order in which they were written.

    Raises UserError when the file is absent, damaged, lacks one of the metrics, or has policies with different episodes.
    """
    names = [metric.name for metric in metrics]
    older = f"if the run is of an older version, evaluate it again: {command_of('evaluate')} run=..."
    table = read_table(path, (*METRICS_COLUMNS, *names), older)
    policies, episodes = (np.array(texts(table, name, path), object) for name in ("policy", "episode"))
    bound = truths(table, "bound", path)
    columns = {name: numbers(table, name, path, may_lack=True) for name in names}  # missing -> NaN
    if not len(policies):
        raise UserError(f"{path}: it has no rows")
    order = [str(policy) for policy in dict.fromkeys(policies)]
    check_policies(order, str(path))
    values: dict[str, dict[str, FloatArray]] = {}
    first = list(episodes[policies == policies[0]])
    check_episodes(first, str(path))
    for policy in order:
        rows = policies == policy
        if list(episodes[rows]) != first:
            raise UserError(f"{path}: {policy} has other episodes than {order[0]}")
        values[policy] = {name: column[rows] for name, column in columns.items() if not np.isnan(column[rows]).any()}
        lacking = [name for name in names if name not in values[policy]]
        if lacking and not bound[rows].all():
            raise UserError(f"{path}: {lacking[0]} of {policy} is missing in some episode")
    return EpisodeMetrics(first, values, frozenset(policy for policy in order if bound[policies == policy].all()))


def write_replay(
    path: Path | str, rows: Mapping[str, Columns], episodes: Sequence[str], valid: Mapping[str, Mask]
) -> None:
    """Write policy -> column -> array (episodes, steps, ...), keeping the steps of the mask `valid` (episodes, steps).

    Every policy has columns action and reward, and may have return_to_go and decision_ms, which are null where a policy has
    none or its value is NaN, and reason, texts or None, which is a column where any policy has it; the other columns are the
    task's record, the same for all policies. An action of several numbers (episodes, steps, k) becomes a list, and so do the
    values of a RaggedColumn.

    Raises ValueError when columns or shapes do not fit, UserError for names that are not distinct or cannot be stored.
    """
    # Names that can be columns.
    check_policies(rows, "the policies of a replay")
    check_episodes(episodes, "the test episodes")
    names = list(dict.fromkeys(name for columns in rows.values() for name in columns))
    record = [name for name in names if name not in (*REQUIRED, *NULLABLE, REASON)]
    optional = [REASON] if REASON in names else []
    if taken := [name for name in record if name in INDEX]:
        raise UserError(f"replay: the columns {taken} have a meaning of their own: choose other names in record()")
    # A table of each policy, with the same columns, its steps in order.
    tables = []
    for policy, columns in rows.items():
        mask = valid[policy]
        if missing := [name for name in (*REQUIRED, *record) if name not in columns]:
            raise ValueError(f"replay of {policy} lacks the columns {missing}")
        if len(episodes) != len(mask):
            raise ValueError(f"replay of {policy} has {len(mask)} episodes, but {len(episodes)} names")
        episode, step = np.nonzero(mask)
        table: dict[str, pa.Array] = {
            "policy": pa.DictionaryArray.from_arrays(np.zeros(len(step), np.int32), [policy]),
            "episode": pa.DictionaryArray.from_arrays(episode.astype(np.int32), list(episodes)),
            "step": pa.array(step.astype(np.int32)),
        }
        for name in (*REQUIRED, *NULLABLE, *optional, *record):
            given = columns.get(name)
            if name == REASON:
                texts = [None] * len(step) if given is None else list(np.asarray(given)[mask])
                table[name] = pa.array(texts, pa.string())
            elif given is None:
                table[name] = pa.nulls(len(step), pa.float64())
            elif isinstance(given, RaggedColumn):
                table[name] = _lists(given, mask)
            elif given.shape[:2] != mask.shape:
                raise ValueError(f"replay of {policy}: {name} is {given.shape}, but the mask {mask.shape}")
            else:
                table[name] = _array(given[mask], nullable=name in NULLABLE)
        tables.append(pa.table(table))
    _write(path, pa.concat_tables(tables).unify_dictionaries())


def _lists(column: RaggedColumn, mask: Mask) -> pa.Array:
    """The values of the steps of `mask`, a list each. Steps outside it have none."""
    if column.count.shape != mask.shape or column.count[~mask].any():
        raise ValueError(f"replay: a ragged column of {column.count.shape} does not fit the mask {mask.shape}")
    offsets = np.r_[0, np.cumsum(column.count[mask])].astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(column.values))


def _array(column: npt.NDArray[np.generic], nullable: bool) -> pa.Array:
    if nullable:
        return pa.array(column.astype(np.float64), from_pandas=True)  # NaN -> null
    if column.ndim == 1:
        return pa.array(column)
    flat = column.reshape(len(column), -1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])


def read_replay(path: Path | str) -> pa.Table:
    """The table that `write_replay` wrote.

    Raises UserError when the file is absent, damaged or not a replay, and for a reward or step that is none.
    """
    table = read_table(path, REPLAY_COLUMNS, "a finished run leaves it next to results.json")
    for name in ("policy", "episode"):
        texts(table, name, path)
    for name in ("step", "action", "reward"):
        numbers(table, name, path, lists=name == "action")
    return table


def _write(path: Path | str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())
