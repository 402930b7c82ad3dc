"""Figures per episode of a replay: means of a column, and the task's main metric."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from edgenetllm.errors import UserError
from edgenetllm.reporting.replay_file import episodes_of, policies_of, select
from edgenetllm.tasks.task import Metric

FloatArray = npt.NDArray[np.float64]


def metric_column(replay: pa.Table, metric: Metric) -> str:
    """The record column that has the metric's name, else the reward: its mean is the metric (ABR: QoE per chunk)."""
    return metric.name if metric.name in replay.column_names else "reward"


def per_episode(replay: pa.Table, policy: str, column: str, how: str = "mean") -> FloatArray:
    """Mean (or another aggregate of pyarrow) of a column over the decisions of each episode of a policy, (episodes,).

    In the order of `episodes_of`.
    """
    table = select(replay, policy).select(["episode", column])
    table = table.set_column(0, "episode", table["episode"].cast(pa.string()))
    grouped = table.group_by("episode").aggregate([(column, how)])
    means = dict(zip(grouped["episode"].to_pylist(), grouped[f"{column}_{how}"].to_pylist(), strict=True))
    return np.array([means[name] for name in episodes_of(replay) if name in means], np.float64)


def values_of(replay: pa.Table, policy: str, column: str) -> FloatArray:
    """All values of a column of lists, of all decisions of a policy."""
    lists = select(replay, policy)[column].combine_chunks()
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False), np.float64)


def metric_by_episode(replay: pa.Table, metric: Metric) -> dict[str, FloatArray]:
    """Policy -> the metric of each episode (episodes,), in the order of `episodes_of`.

    An episode's value is the mean over its decisions of `metric_column`; where that holds lists (CJS: the completion times
    of the jobs that a decision saw complete), the mean over all their values. Raises UserError when an episode has none.
    """
    policies, episodes = policies_of(replay), episodes_of(replay)
    cell = _number(replay, "policy", policies) * len(episodes) + _number(replay, "episode", episodes)
    column = replay[metric_column(replay, metric)].combine_chunks()
    if pa.types.is_list(column.type):
        cell = np.repeat(cell, column.value_lengths().to_numpy(zero_copy_only=False))
        column = column.flatten()
    values = np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
    shape = (len(policies), len(episodes))
    counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    if (counts == 0).any():
        policy, episode = np.argwhere(counts == 0)[0]
        raise UserError(f"{policies[policy]} has no {metric.name} in episode {episodes[episode]!r}")
    sums = np.bincount(cell, values, minlength=shape[0] * shape[1]).reshape(shape)
    return dict(zip(policies, sums / counts, strict=True))


def _number(replay: pa.Table, column: str, names: list[str]) -> npt.NDArray[np.int64]:
    """Number of each row's name, (rows,)."""
    found = pc.index_in(replay[column].cast(pa.string()), value_set=pa.array(names, pa.string()))
    return found.to_numpy().astype(np.int64)
