"""Hidden state to a stage and a number of executors, in one forward pass of the backbone.

Every schedulable stage is scored against the hidden state, and so is leaving the executors idle; given the stage, every
number of executors that it can use. A choice therefore does not depend on the order of the stages, and there is no largest
number of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgenetllm.tasks.cjs.columns import DEMAND, JOB, SUPPLY
from edgenetllm.tasks.cjs.networks.encoder import cluster_size, of_stage, pick, share_of_cluster
from edgenetllm.tasks.cjs.networks.sizes import HIDDEN, KNOWN, NEVER, NUMBER_FEATURES
from edgenetllm.tasks.cjs.networks.targets import intended_action, top_choices
from edgenetllm.tasks.common.heads import finite
from edgenetllm.tasks.task import Head

USUAL_WIDTH = 64  # number of inputs of a layer that the learning rate suits


class PointerHead(Head):
    """A stage is scored by its embeddings and, as in Decima, by its own features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 2 * HIDDEN)
        self.stage = nn.Linear(KNOWN, HIDDEN)
        self.score = nn.Sequential(nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))
        self.idle = nn.Sequential(nn.GELU(), nn.Linear(HIDDEN, 1))
        self.place = nn.Linear(KNOWN, HIDDEN)
        self.number = nn.Linear(NUMBER_FEATURES, HIDDEN)
        self.count = nn.Sequential(nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))

    def for_edge(self) -> dict[str, Any] | None:
        return {"kind": "cjs_pointer"} if type(self) is PointerHead else None

    def lr_multipliers(self) -> dict[str, float]:
        """A step of Adam moves every weight as far, hence an output as far as there are inputs: what reads the hidden state
        would run away from what reads the stages (Yang et al., Tensor Programs V, table 3)."""
        return {"hidden.weight": min(1.0, USUAL_WIDTH / self.hidden.in_features)}

    def logits(self, hidden: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        """(b, t, width) -> (b, t, 1 + places): leaving the executors idle, then each place of the schedulable list."""
        query, listed = self.hidden(hidden)[..., :HIDDEN], embedded["listed"]
        scores = self.score(self.stage(_known(embedded, listed)) + query[..., None, :])[..., 0]
        scores = scores.float().masked_fill(listed < 0, NEVER)
        return torch.cat([self.idle(query).float(), scores], dim=-1)

    def executor_logits(self, hidden: Tensor, embedded: Mapping[str, Tensor], place: Tensor) -> Tensor:
        """Logits (b, t, most) given the chosen place (b, t), -1 for none; entry k stands for k + 1 executors."""
        row = embedded["listed"].gather(-1, place.clamp_min(0)[..., None])
        of_job = pick(embedded["stages"], row.clamp_min(0))[..., JOB].long()
        own = torch.where(of_job[..., 0] == embedded["source_job"], embedded["committable"], 0)
        held = pick(embedded["jobs"], of_job)[..., SUPPLY] - own[..., None]  # by the job, whatever is decided
        query = self.hidden(hidden)[..., HIDDEN:] + self.place(_known(embedded, row))[..., 0, :]
        committable, size = embedded["committable"].float()[..., None], cluster_size(embedded)[..., None]
        most = most_executors(embedded, row[..., 0])[..., None]
        numbers = torch.arange(1, max(1, int(committable.max())) + 1, device=hidden.device).float()
        k = numbers.expand(*place.shape, -1)
        features = [
            k / size, k.log() / 4, (k + held) / size, share_of_cluster(k + held, size), k / committable.clamp_min(1), k / most
        ]  # fmt: skip
        scores = self.count(self.number(torch.stack(features, dim=-1)) + query[..., None, :])[..., 0]
        return scores.float().masked_fill(k > most, NEVER)  # type: ignore[no-any-return]

    def loss(
        self,
        hidden: Tensor,
        embedded: Mapping[str, Tensor],
        action: Tensor,
        target: Tensor | None,
        mask: Tensor,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Cross-entropy with the stage's probabilities plus that of the number of executors, where a stage was chosen."""
        counts = self.counts(action, target, mask) if counts is None else counts
        index, probability = top_choices(action, target)
        action = intended_action(action, target)
        executor_logits = self.executor_logits(hidden, embedded, action[..., 0])
        stage_logits = self.logits(hidden, embedded)
        return choice_loss(
            stage_logits, index, probability, action[..., 0], executor_logits, action[..., 1], mask, counts
        )

    def counts(self, action: Tensor, target: Tensor | None, mask: Tensor) -> Tensor:
        return choice_counts(intended_action(action, target)[..., 0], mask)

    def decide(
        self, hidden: Tensor, embedded: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        """(b, t, 2): index in the list of schedulable stages or -1, executors (all that are left for -1)."""
        place = choose(self.logits(hidden, embedded), generator) - 1
        count = 1 + choose(self.executor_logits(hidden, embedded, place), generator)
        return as_action(place, count, embedded)


def _known(embedded: Mapping[str, Tensor], rows: Tensor) -> Tensor:
    """Stages at `rows` (b, t, k), -1 for any: their inputs and embeddings and those of their jobs, (b, t, k, n)."""
    rows = rows.clamp_min(0)
    return torch.cat([pick(embedded["inputs"], rows), *of_stage(embedded, rows)], dim=-1)


def most_executors(embedded: Mapping[str, Tensor], row: Tensor) -> Tensor:
    """Executors that the stage of this row (-1: any) can use, and at least 1, (b, t)."""
    demand = pick(embedded["stages"], row.clamp_min(0)[..., None])[..., 0, DEMAND]
    return torch.minimum(embedded["committable"].float(), demand).clamp_min(1)


def choice_counts(index: Tensor, mask: Tensor) -> Tensor:
    """(2,): the decisions of `mask` (b, t), and those of them that chose a stage (index -1: none)."""
    return torch.stack([mask.sum(), (mask & (index >= 0)).sum()])


def choice_loss(
    stage_logits: Tensor,
    stages: Tensor,
    probability: Tensor,
    stage: Tensor,
    executor_logits: Tensor,
    executors: Tensor,
    mask: Tensor,
    counts: Tensor,
) -> Tensor:
    """Sums over `mask` (b, t) by `counts` (2,). Stage -1 is class 0, and has no number of executors to learn.

    `stages` and `probability` (b, t, k) say how likely the stage should be, `stage` (b, t) which one `executors` belong to.
    """
    logarithms = stage_logits.log_softmax(-1).gather(-1, stages + 1)
    of_stage = -(logarithms * probability).sum(-1)[mask].sum()
    chosen = mask & (stage >= 0)
    useful = torch.minimum(executors, (executor_logits > NEVER).sum(-1)).clamp_min(1)  # more come to the same
    of_executors = nn.functional.cross_entropy(executor_logits[chosen], useful[chosen] - 1, reduction="sum")
    stage_count, executor_count = (count.clamp_min(1e-6) for count in counts)
    return of_stage / stage_count + of_executors / executor_count


def choose(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    """The most probable class, or a sampled one, (b, t). Raises NotFinite for logits that are NaN or infinite."""
    finite(logits)
    if generator is None:
        return logits.argmax(-1)
    return torch.multinomial(logits.softmax(-1).flatten(0, -2), 1, generator=generator).view(logits.shape[:-1])


def as_action(index: Tensor, executors: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
    """(b, t, 2); leaving the executors idle concerns all that are left."""
    return torch.stack([index, torch.where(index < 0, embedded["committable"].long(), executors)], dim=-1)
