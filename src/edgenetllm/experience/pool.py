"""The experience pool on disk: `pool.json` (what it is) and `columns.npz` (what happened). Never pickle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from edgenetllm.arrays_file import read_arrays
from edgenetllm.errors import UserError
from edgenetllm.experience.columns import take_columns
from edgenetllm.experience.ragged import RaggedColumn, join, take
from edgenetllm.experience.rollout import Column, Episodes
from edgenetllm.files import atomic_folder, sha256_of, write_json
from edgenetllm.plain_files import check_document, read_json
from edgenetllm.tasks.task import Array

SCHEMA = 4


@dataclass
class Pool:
    """Columns (episodes, steps, ...). Steps after the end of an episode are zero, with `valid` False."""

    observation: dict[str, Column]
    action: Array
    reward: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_]
    target: npt.NDArray[np.float32] | None  # see Policy.targets; zeros where a policy gives none
    reference: npt.NDArray[np.float64] | None  # (episodes,) what the task's reference policy earns in them
    info: dict[str, Any]  # pool.json

    @property
    def returns(self) -> npt.NDArray[np.float64]:
        """Sum of rewards, (episodes,); with a reference, the fraction by which it exceeds the reference's."""
        total = np.asarray((self.reward * self.valid).sum(1))
        return total if self.reference is None else (total - self.reference) / np.abs(self.reference)

    def return_to_go(self) -> npt.NDArray[np.float32]:
        """Return-to-go of each step, (episodes, steps): the rewards from it on; with a reference, the episode's return."""
        if self.reference is not None:
            return np.repeat(self.returns[:, None], self.reward.shape[1], axis=1).astype(np.float32)
        return np.cumsum((self.reward * self.valid)[:, ::-1], axis=1)[:, ::-1].astype(np.float32)


def subsample(pool: Pool, fraction: float, seed: int) -> Pool:
    """A fraction in (0, 1] of a pool's episodes, at least one, drawn with `seed`; smaller subsamples lie within larger ones.

    `info` stays that of the whole pool.
    """
    if fraction == 1:
        return pool
    episodes = len(pool.valid)
    count = max(1, round(fraction * episodes))
    chosen = np.sort(np.random.default_rng([seed, 78]).permutation(episodes)[:count])
    return Pool(
        observation={
            name: take(column, chosen) if isinstance(column, RaggedColumn) else column[chosen]
            for name, column in pool.observation.items()
        },
        action=pool.action[chosen],
        reward=pool.reward[chosen],
        valid=pool.valid[chosen],
        target=None if pool.target is None else pool.target[chosen],
        reference=None if pool.reference is None else pool.reference[chosen],
        info=pool.info,
    )


def write_pool(
    folder: Path,
    batches: list[Episodes],
    identity: dict[str, object],
    reference: npt.NDArray[np.float64] | None = None,
) -> None:
    """Write all batches of episodes as one pool, whole or not at all. Steps without soft targets have zeros there."""
    # Observations, then the columns that every pool has, and those that are optional.
    columns: dict[str, Array] = {}
    for name, column in batches[0].observation.items():
        if isinstance(column, RaggedColumn):
            joined = join([batch.observation[name] for batch in batches])  # type: ignore[misc]
            columns[f"ragged.{name}"], columns[f"count.{name}"] = joined.values, joined.count
        else:
            columns[f"observation.{name}"] = _stack([batch.observation[name] for batch in batches])  # type: ignore[misc]
    if reference is not None:
        columns["reference"] = reference
    columns["action"] = _stack([batch.action for batch in batches])
    columns["reward"] = _stack([batch.reward for batch in batches])
    columns["valid"] = _stack([batch.valid for batch in batches])
    choices = {batch.target.shape[2:] for batch in batches if batch.target is not None}
    if choices:
        some = choices.pop()
        columns["target"] = _stack([_target(batch, some) for batch in batches])
    # Write the columns, and last the description that holds their hash.
    returns = (columns["reward"] * columns["valid"]).sum(1)
    with atomic_folder(folder) as temporary:
        np.savez(temporary / "columns.npz", **columns)  # type: ignore[arg-type]
        info = {
            **identity,
            "episodes": len(returns),
            "decisions": int(columns["valid"].sum()),
            "return_bounds": [float(returns.min()), float(returns.max())],
            "soft_targets": "target" in columns,
            "sha256": sha256_of(temporary / "columns.npz"),
        }
        write_json(temporary / "pool.json", info)


class _Info(BaseModel):
    """The entries of `pool.json` that are read; others are left as they are."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    task: str
    episodes: int
    decisions: int
    return_bounds: list[float]
    soft_targets: bool
    sha256: str
    logs: str | None = None
    notes: list[str] = []


def read_pool(folder: Path) -> Pool:
    """The pool in a folder.

    Raises UserError, naming the file, for none of this schema, for columns that are damaged, altered or do not fit each
    other, and for numbers that are none.
    """
    # The description, and a check of the columns against it.
    info_file, columns_file = folder / "pool.json", folder / "columns.npz"
    info = read_json(info_file)
    if not isinstance(info, dict) or "schema" not in info:
        raise UserError(f"{folder} is not an experience pool: {info_file.name} names no schema")
    if info["schema"] != SCHEMA:
        raise UserError(f"{folder}: pool schema {info['schema']!r:.40}, this version reads {SCHEMA}; delete the folder")
    check_document(info, _Info, info_file)
    if not columns_file.is_file() or sha256_of(columns_file) != info["sha256"]:
        raise UserError(f"{columns_file} is damaged or altered (sha256 differs): delete the folder to collect it again")
    # The columns, which fit each other and the description.
    columns = read_arrays(columns_file, str(columns_file))
    try:
        observation = take_columns(columns, "observation", {"target": ("f", 0), "reference": ("f", 1)})
        pool = Pool(
            observation=observation,
            action=columns["action"],
            reward=columns["reward"],
            valid=columns["valid"],
            target=columns.get("target"),
            reference=columns.get("reference"),
            info=info,
        )
        _check_fit(pool)
    except UserError as error:
        raise UserError(f"{columns_file}: {error}") from None
    return pool


def _check_fit(pool: Pool) -> None:
    """Raises UserError where target, reference or description do not fit the episodes."""
    shape, info = pool.valid.shape, pool.info
    if pool.target is not None and (pool.target.shape[:2] != shape or pool.target.dtype != np.float32):
        raise UserError(f"column target is {pool.target.dtype} {pool.target.shape}, and valid {shape}")
    if pool.reference is not None and (pool.reference.shape != shape[:1] or not pool.reference.all()):
        raise UserError(f"column reference has the shape {pool.reference.shape} or a 0, for {shape[0]} episodes")
    with np.errstate(over="ignore", invalid="ignore"):
        returns = pool.return_to_go()
    if not np.isfinite(returns).all():
        episode = int(np.argwhere(~np.isfinite(returns))[0, 0])
        raise UserError(f"column reward, episode {episode}: the rewards add up to more than float32 holds")
    found = {"episodes": shape[0], "decisions": int(pool.valid.sum()), "soft_targets": pool.target is not None}
    for name, value in found.items():
        if info[name] != value:
            raise UserError(f"its {name} are {value}, and {info[name]} in pool.json")


def _target(batch: Episodes, choices: tuple[int, ...]) -> Array:
    if batch.target is not None:
        return batch.target
    return np.zeros((*batch.action.shape[:2], *choices), np.float32)


def _stack(arrays: list[Array]) -> Array:
    """Join episodes of different lengths, zero-padded at the end of the step axis."""
    steps = max(array.shape[1] for array in arrays)
    padded = [np.pad(array, [(0, 0), (0, steps - array.shape[1])] + [(0, 0)] * (array.ndim - 2)) for array in arrays]
    return np.concatenate(padded)
