"""Heads for simple actions: one of several choices, or real numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgenetllm.errors import NotFinite
from edgenetllm.tasks.task import Head


def finite(logits: Tensor) -> Tensor:
    """The same logits. Raises NotFinite where one is NaN or infinite: the largest of NaN would be the first action."""
    if not logits.isfinite().all():
        raise NotFinite("the logits of a decision are not finite: the policy cannot decide")
    return logits


class ChoiceHead(Head):
    """A linear map to the logits of a categorical distribution; actions are int64 (episodes,), in [0, choices)."""

    def __init__(self, width: int, choices: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, choices)

    def for_edge(self) -> dict[str, Any] | None:
        return {"kind": "choice", "choices": self.linear.out_features} if type(self) is ChoiceHead else None

    def logits(self, hidden: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        """(batch, steps, width) -> (batch, steps, choices)."""
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
        """Cross-entropy with the policy's probabilities (batch, steps, choices) where given, else with the action."""
        (decisions,) = self.counts(action, target, mask) if counts is None else counts
        logits, taken = self.logits(hidden, embedded)[mask], action[mask]
        distribution = nn.functional.one_hot(taken, self.linear.out_features).float()
        if target is not None:
            soft = target[mask]
            distribution = torch.where(soft.sum(-1, keepdim=True) > 0, soft, distribution)
        return nn.functional.cross_entropy(logits, distribution, reduction="sum") / decisions.clamp_min(1e-6)

    def decide(
        self, hidden: Tensor, embedded: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        """(batch, steps, width) -> (batch, steps): the most probable choice, or one drawn from the distribution."""
        logits = finite(self.logits(hidden, embedded))
        if generator is None:
            return logits.argmax(-1)
        drawn = torch.multinomial(logits.softmax(-1).flatten(0, -2), 1, generator=generator)
        return drawn.view(logits.shape[:-1])


class GaussianHead(Head):
    """A normal distribution with a linear mean and one learnt spread per number; actions are float (episodes, size).

    Actions should be of about unit size; an environment that allows only a range clips them itself. A policy's target has
    `size + 1` numbers: the action to learn instead of the one taken, and a 1, which tells it from a step without a target.
    """

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.mean = nn.Linear(width, size)
        self.log_std = nn.Parameter(torch.zeros(size))

    def for_edge(self) -> dict[str, Any] | None:
        return {"kind": "gaussian", "size": self.mean.out_features} if type(self) is GaussianHead else None

    def logits(self, hidden: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        """The mean action, (batch, steps, width) -> (batch, steps, size)."""
        return self.mean(hidden).float()  # type: ignore[no-any-return]

    def loss(
        self,
        hidden: Tensor,
        embedded: Mapping[str, Tensor],
        action: Tensor,
        target: Tensor | None,
        mask: Tensor,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Negative log-likelihood of the target (batch, steps, size + 1) where given, else of the action, in nats."""
        (decisions,) = self.counts(action, target, mask) if counts is None else counts
        mean, label = self.logits(hidden, embedded)[mask], action[mask]
        if target is not None:
            soft = target[mask]
            label = torch.where(soft[:, -1:] > 0, soft[:, :-1], label)
        log_std = self.log_std.float()
        nats = ((label - mean) / log_std.exp()).square() / 2 + log_std + math.log(2 * math.pi) / 2
        return nats.sum() / decisions.clamp_min(1e-6)

    def decide(
        self, hidden: Tensor, embedded: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        """(batch, steps, width) -> (batch, steps, size): the mean, or a sample of the distribution."""
        mean = finite(self.logits(hidden, embedded))
        if generator is None:
            return mean
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return mean + self.log_std.float().exp() * noise
