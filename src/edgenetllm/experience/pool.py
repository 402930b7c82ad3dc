"""The experience pool on disk: `pool.json` (what it is) and `columns.npz` (what happened). Never pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import Episodes
from edgenetllm.files import atomic_folder, sha256_of, write_json
from edgenetllm.tasks.task import Array

SCHEMA = 3


@dataclass
class Pool:
    """Columns (episodes, steps, ...). Steps after the end of an episode are zero, with `valid` False."""

    observation: dict[str, Array]
    action: Array
    reward: npt.NDArray[np.float64]
    valid: npt.NDArray[np.bool_]
    target: npt.NDArray[np.float32] | None  # teacher's probabilities of all actions; zeros where it gave none
    info: dict[str, Any]  # pool.json

    @property
    def returns(self) -> npt.NDArray[np.float64]:
        """Sum of rewards per episode, (episodes,)."""
        return np.asarray((self.reward * self.valid).sum(1))

    def return_to_go(self) -> npt.NDArray[np.float32]:
        """Sum of the rewards from each step on, (episodes, steps)."""
        return np.cumsum((self.reward * self.valid)[:, ::-1], axis=1)[:, ::-1].astype(np.float32)


def write_pool(folder: Path, parts: list[Episodes], identity: dict[str, object]) -> None:
    """Write all parts as one pool, whole or not at all. Steps without soft targets have zeros there."""
    columns: dict[str, Array] = {
        f"observation.{name}": _stack([part.observation[name] for part in parts]) for name in parts[0].observation
    }
    columns["action"] = _stack([part.action for part in parts])
    columns["reward"] = _stack([part.reward for part in parts])
    columns["valid"] = _stack([part.valid for part in parts])
    choices = {part.target.shape[2:] for part in parts if part.target is not None}
    if choices:
        some = choices.pop()
        columns["target"] = _stack([_target(part, some) for part in parts])
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


def read_pool(folder: Path) -> Pool:
    """Raises UserError when the folder is not a pool of this schema or its columns are damaged."""
    try:
        info = json.loads((folder / "pool.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not an experience pool: {error}") from None
    if info.get("schema") != SCHEMA:
        raise UserError(f"{folder}: pool schema {info.get('schema')}, this version reads {SCHEMA}; delete the folder")
    if sha256_of(folder / "columns.npz") != info["sha256"]:
        raise UserError(f"{folder}/columns.npz is damaged (sha256 differs): delete the folder to collect it again")
    with np.load(folder / "columns.npz", allow_pickle=False) as stored:
        columns = {name: stored[name] for name in stored.files}
    prefix = "observation."
    return Pool(
        observation={name.removeprefix(prefix): value for name, value in columns.items() if name.startswith(prefix)},
        action=columns["action"],
        reward=columns["reward"],
        valid=columns["valid"],
        target=columns.get("target"),
        info=info,
    )


def _target(part: Episodes, choices: tuple[int, ...]) -> Array:
    if part.target is not None:
        return part.target
    return np.zeros((*part.action.shape[:2], *choices), np.float32)


def _stack(parts: list[Array]) -> Array:
    """Join episodes of different lengths, zero-padded at the end of the step axis."""
    steps = max(part.shape[1] for part in parts)
    padded = [np.pad(part, [(0, 0), (0, steps - part.shape[1])] + [(0, 0)] * (part.ndim - 2)) for part in parts]
    return np.concatenate(padded)
