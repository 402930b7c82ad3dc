"""An encoder for observations that are a few numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgenetllm.tasks.task import Encoder

HIDDEN = 64


class VectorEncoder(Encoder):
    """All numbers of a step in one token, by a network with one hidden layer.

    `scales` names the columns of the observation that are read, and what they are divided by to be of about unit size: a
    number for a column (episodes,), n numbers for a column (episodes, n). `action` maps actions (batch, steps, ...) to
    (batch, steps, width): `nn.Embedding(choices, width)` for choices, `nn.Linear(size, width)` for real numbers.
    """

    tokens_per_step = 1
    scale: Tensor

    def __init__(self, width: int, scales: Mapping[str, float | Sequence[float]], action: nn.Module) -> None:
        super().__init__()
        self.columns = {name: None if isinstance(scale, int | float) else len(scale) for name, scale in scales.items()}
        flat = [one for scale in scales.values() for one in ([scale] if isinstance(scale, int | float) else scale)]
        self.register_buffer("scale", torch.tensor(flat, dtype=torch.float32), persistent=False)
        self.network = nn.Sequential(nn.Linear(len(flat), HIDDEN), nn.GELU(), nn.Linear(HIDDEN, width))
        self.actions = action
        self.scales = dict(scales)

    def for_edge(self) -> dict[str, Any] | None:
        if type(self) is not VectorEncoder or not isinstance(self.actions, nn.Embedding | nn.Linear):
            return None
        discrete = isinstance(self.actions, nn.Embedding)
        scales = {name: scale if isinstance(scale, int | float) else list(scale) for name, scale in self.scales.items()}
        number = self.actions.num_embeddings if isinstance(self.actions, nn.Embedding) else self.actions.in_features
        return {"kind": "vector", "scales": scales, "action": "choice" if discrete else "numbers", "actions": number}

    def state(self, embedded: Mapping[str, Tensor]) -> Tensor:
        """(batch, steps) or (batch, steps, n) per name -> (batch, steps, 1, width)."""
        values = [embedded[name] if size else embedded[name][..., None] for name, size in self.columns.items()]
        return self.network(torch.cat(values, dim=-1) / self.scale)[:, :, None]  # type: ignore[no-any-return]

    def action(self, action: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        return self.actions(action)  # type: ignore[no-any-return]
