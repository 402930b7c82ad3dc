"""The bytes of what edge and cloud send each other: observations, actions, tokens and hidden states, four bytes a number."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.task import Array, Observation, Ragged

NUMBER_BYTES = 4  # float32, or an integer of as many


def observation_bytes(observation: Observation, names: Collection[str] | None = None) -> npt.NDArray[np.float64]:
    """Bytes of each episode's observation, (episodes,): of the inputs `names`, or of all; rows come with their number."""
    total: npt.NDArray[np.float64] | float = 0.0
    for name, value in observation.items():
        if names is not None and name not in names:
            continue
        if isinstance(value, Ragged):
            columns = int(np.prod(value.values.shape[2:], dtype=np.int64))
            total = total + NUMBER_BYTES * (1.0 + value.count.astype(np.float64) * columns)
        else:
            total = total + np.full(len(value), NUMBER_BYTES * np.prod(value.shape[1:], dtype=np.float64))
    return np.asarray(total, np.float64)


def action_bytes(action: Array) -> npt.NDArray[np.float64]:
    """Bytes of each episode's action, (episodes,)."""
    return np.full(len(action), NUMBER_BYTES * np.prod(action.shape[1:], dtype=np.float64))


def token_bytes(episodes: int, tokens: int, width: int, value_bytes: int) -> npt.NDArray[np.float64]:
    """Bytes of so many tokens, or of one hidden state, of every episode, (episodes,)."""
    return np.full(episodes, float(tokens * width * value_bytes))
