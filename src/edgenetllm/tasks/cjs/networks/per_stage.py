"""`tokens=per_stage`: NetLLM's layout, for comparison. A token per schedulable stage, one for the executors, fixed classes.

As in `cluster_job_scheduling` of github.com/duowuyms/NetLLM, a choice is a place in the list of schedulable stages and a
number of executors up to a fixed one, each a class of a linear layer; a stage beyond the last place cannot be chosen. Unlike
there, the number of executors is read from the same forward pass (there a second one), conditioned on the chosen stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgenetllm.tasks.cjs.networks.encoder import GraphEncoder, action_features, first_schedulable, of_stage
from edgenetllm.tasks.cjs.networks.head import as_action, choice_counts, choice_loss, choose, most_executors
from edgenetllm.tasks.cjs.networks.sizes import HIDDEN, MOST_EXECUTORS, NEVER, PLACES
from edgenetllm.tasks.cjs.networks.targets import intended_action, top_choices
from edgenetllm.tasks.task import Encoder, Head


class PerStageEncoder(Encoder):
    tokens_per_step = PLACES + 1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.graph = GraphEncoder()
        self.stage = nn.Linear(2 * HIDDEN, width)
        self.empty = nn.Parameter(torch.zeros(width))
        self.cluster = nn.Linear(HIDDEN, width)
        self.taken = nn.Linear(2 * HIDDEN + 2, width)

    def for_edge(self) -> dict[str, Any] | None:
        return {"kind": "cjs_per_stage"} if type(self) is PerStageEncoder else None

    def embed(self, observation: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        listed = first_schedulable(observation["stages"], PLACES)
        return {**observation, **self.graph(observation), "listed": listed}

    def state(self, embedded: Mapping[str, Tensor]) -> Tensor:
        row = embedded["listed"]
        stage, job = of_stage(embedded, row.clamp_min(0))
        tokens = self.stage(torch.cat([stage, job], dim=-1))
        tokens = torch.where(row[..., None] >= 0, tokens, self.empty)
        return torch.cat([tokens, self.cluster(embedded["cluster"])[:, :, None]], dim=2)

    def action(self, action: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        return self.taken(action_features(action, embedded))  # type: ignore[no-any-return]


class PlaceHead(Head):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stage = nn.Linear(width, 1 + PLACES)
        self.chosen = nn.Linear(2 * HIDDEN, width)
        self.executors = nn.Linear(width, MOST_EXECUTORS)

    def for_edge(self) -> dict[str, Any] | None:
        return {"kind": "cjs_place"} if type(self) is PlaceHead else None

    def logits(self, hidden: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        """(b, t, width) -> (b, t, 1 + PLACES): leaving the executors idle, then each place."""
        none = torch.zeros_like(embedded["listed"][..., :1], dtype=torch.bool)
        missing = torch.cat([none, embedded["listed"] < 0], dim=-1)
        return self.stage(hidden).float().masked_fill(missing, NEVER)  # type: ignore[no-any-return]

    def executor_logits(self, hidden: Tensor, embedded: Mapping[str, Tensor], place: Tensor) -> Tensor:
        """Logits (b, t, MOST_EXECUTORS) given the chosen place (b, t), -1 for none; entry k stands for k + 1."""
        row = embedded["listed"].gather(-1, place.clamp_min(0)[..., None]).clamp_min(0)
        chosen = torch.cat(of_stage(embedded, row), dim=-1)[..., 0, :]
        logits: Tensor = self.executors(hidden + self.chosen(chosen)).float()
        numbers = torch.arange(1, logits.shape[-1] + 1, device=hidden.device)
        return logits.masked_fill(numbers > most_executors(embedded, row[..., 0])[..., None], NEVER)

    def loss(
        self,
        hidden: Tensor,
        embedded: Mapping[str, Tensor],
        action: Tensor,
        target: Tensor | None,
        mask: Tensor,
        counts: Tensor | None = None,
    ) -> Tensor:
        """The loss of the pointer head, except that decisions for a stage beyond the last place are left out."""
        counts = self.counts(action, target, mask) if counts is None else counts
        index, probability = top_choices(action, target)
        action = intended_action(action, target)
        mask = mask & (action[..., 0] < PLACES)
        probability = torch.where(index < PLACES, probability, 0)
        probability = probability / probability.sum(-1, keepdim=True).clamp_min(1e-6)
        place = action[..., 0].clamp_max(PLACES - 1)
        executor_logits = self.executor_logits(hidden, embedded, place)
        stage_logits, places = self.logits(hidden, embedded), index.clamp_max(PLACES - 1)
        return choice_loss(stage_logits, places, probability, place, executor_logits, action[..., 1], mask, counts)

    def counts(self, action: Tensor, target: Tensor | None, mask: Tensor) -> Tensor:
        index = intended_action(action, target)[..., 0]
        return choice_counts(index, mask & (index < PLACES))

    def decide(
        self, hidden: Tensor, embedded: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        place = choose(self.logits(hidden, embedded), generator) - 1
        count = 1 + choose(self.executor_logits(hidden, embedded, place), generator)
        return as_action(place, count, embedded)
