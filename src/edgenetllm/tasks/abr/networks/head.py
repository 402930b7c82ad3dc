"""Hidden state to one of the levels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgenetllm.tasks.abr.simulator.qoe import LEVELS
from edgenetllm.tasks.task import Head


class LevelHead(Head):
    def __init__(self, width: int, levels: int = LEVELS) -> None:
        super().__init__()
        self.linear = nn.Linear(width, levels)

    def logits(self, hidden: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        """(batch, steps, width) -> (batch, steps, levels)."""
        return self.linear(hidden).float()  # type: ignore[no-any-return]

    def loss(
        self,
        hidden: Tensor,
        embedded: Mapping[str, Tensor],
        action: Tensor,
        target: Tensor | None,
        mask: Tensor,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy with the teacher's probabilities (batch, steps, levels) where given, else with the action."""
        (decisions,) = self.counts(action, target, mask) if counts is None else counts
        logits, taken = self.logits(hidden, embedded)[mask], action[mask]
        wanted = nn.functional.one_hot(taken, self.linear.out_features).float()
        if target is not None:
            soft = target[mask]
            wanted = torch.where(soft.sum(-1, keepdim=True) > 0, soft, wanted)
        return nn.functional.cross_entropy(logits, wanted, reduction="sum") / decisions.clamp_min(1e-6)

    def decide(
        self, hidden: Tensor, embedded: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        logits = self.logits(hidden, embedded)
        if generator is None:
            return logits.argmax(-1)
        drawn = torch.multinomial(logits.softmax(-1).flatten(0, -2), 1, generator=generator)
        return drawn.view(logits.shape[:-1])
