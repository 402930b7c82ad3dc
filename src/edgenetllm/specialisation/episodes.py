"""The few episodes that a specialisation learns from, instead of the many of an adaptation."""

from __future__ import annotations

import numpy as np

from edgenetllm.config import Config, TaskConfig
from edgenetllm.errors import UserError
from edgenetllm.experience.entries import PoolEntry
from edgenetllm.experience.pool import Pool
from edgenetllm.experience.ragged import RaggedColumn


def with_few_episodes(config: Config) -> Config:
    """The same configuration with experience.shares that sum to `specialise.episodes`, in the proportion that they have.

    Experience without shares is not played but recorded, and stays as it is. Raises UserError for more shares than
    episodes, and for a fraction of the pool, as `specialise.episodes` says how many there are.
    """
    assert config.specialise is not None
    episodes = config.specialise.episodes
    return config.model_copy(update={"tasks": {name: _few(one, episodes) for name, one in config.tasks.items()}})


def _few(config: TaskConfig, episodes: int) -> TaskConfig:
    experience = config.experience
    if not experience.shares:
        return config
    if experience.fraction != 1:
        raise UserError(
            f"experience.fraction={experience.fraction:g}: specialise.episodes={episodes} says how many there are; type "
            "experience.fraction=1"
        )
    entries = share_out(experience.shares, episodes)
    return config.model_copy(update={"experience": experience.model_copy(update={"shares": entries})})


def share_out(entries: list[PoolEntry], episodes: int) -> list[PoolEntry]:
    """The entries with `episodes` in all, at least one each, in the proportion that they had."""
    if episodes < len(entries):
        raise UserError(f"specialise.episodes={episodes}: experience.shares has {len(entries)} entries, each needs one")
    ends = np.rint(
        np.cumsum([entry.episodes for entry in entries]) / sum(entry.episodes for entry in entries) * episodes
    )
    counts = np.maximum(np.diff(ends.astype(int), prepend=0), 1)
    counts[counts.argmax()] += episodes - counts.sum()
    return [
        PoolEntry(policy=entry.policy, episodes=int(count), action_noise=entry.action_noise)
        for entry, count in zip(entries, counts, strict=True)
    ]


def pool_bytes(pool: Pool) -> int:
    """Bytes of what a pool holds, uncompressed: what would travel if it were learnt from somewhere else."""
    columns = [pool.action, pool.reward, pool.valid, pool.target, pool.reference]
    total = sum(column.nbytes for column in columns if column is not None)
    for observed in pool.observation.values():
        ragged = isinstance(observed, RaggedColumn)
        total += observed.values.nbytes + observed.count.nbytes if ragged else observed.nbytes  # type: ignore[union-attr]
    return int(total)
