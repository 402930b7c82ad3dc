"""Hidden state to one of six levels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgenetllm.tasks.abr.qoe import LEVELS
from edgenetllm.tasks.task import Head


class LevelHead(Head):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, LEVELS)

    def logits(self, hidden: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        """(batch, steps, width) -> (batch, steps, 6)."""
        return self.linear(hidden).float()  # type: ignore[no-any-return]

    def loss(
        self, hidden: Tensor, embedded: Mapping[str, Tensor], action: Tensor, target: Tensor | None, mask: Tensor
    ) -> Tensor:
        """Cross-entropy with the teacher's probabilities (batch, steps, 6) where given, else with the action."""
        logits, taken = self.logits(hidden, embedded)[mask], action[mask]
        if target is None:
            return nn.functional.cross_entropy(logits, taken)
        soft = target[mask]
        given = soft.sum(-1, keepdim=True) > 0
        return nn.functional.cross_entropy(
            logits, torch.where(given, soft, nn.functional.one_hot(taken, LEVELS).float())
        )

    def decide(
        self, hidden: Tensor, embedded: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        logits = self.logits(hidden, embedded)
        if generator is None:
            return logits.argmax(-1)
        drawn = torch.multinomial(logits.softmax(-1).flatten(0, -2), 1, generator=generator)
        return drawn.view(logits.shape[:-1])
