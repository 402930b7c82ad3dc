"""Hidden state to a stage and a number of executors, in one forward pass of the backbone.

Every schedulable stage is scored against the hidden state, and so is leaving the executors idle; given the stage, every
number of executors that it can use. A choice therefore does not depend on the order of the stages, and there is no largest
number of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgenetllm.tasks.cjs.encoder import HIDDEN, chosen_row, cluster_size, pick
from edgenetllm.tasks.cjs.observation import DEMAND, JOB, SCHEDULABLE, SUPPLY
from edgenetllm.tasks.task import Head

NEVER = -1e9


class PointerHead(Head):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, 2 * HIDDEN)
        self.stage = nn.Linear(2 * HIDDEN, HIDDEN)
        self.score = nn.Sequential(nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))
        self.idle = nn.Sequential(nn.GELU(), nn.Linear(HIDDEN, 1))
        self.place = nn.Linear(2 * HIDDEN, HIDDEN)
        self.number = nn.Linear(5, HIDDEN)
        self.count = nn.Sequential(nn.GELU(), nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))

    def logits(self, hidden: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        """(b, t, width) -> (b, t, 1 + stages): leaving the executors idle, then each row of `stages`."""
        wanted = self.hidden(hidden)[..., :HIDDEN]
        scores = self.score(self._pairs(embedded, self.stage) + wanted[..., None, :])[..., 0]
        scores = scores.float().masked_fill(embedded["stages"][..., SCHEDULABLE] == 0, NEVER)
        return torch.cat([self.idle(wanted).float(), scores], dim=-1)

    def executor_logits(self, hidden: Tensor, embedded: Mapping[str, Tensor], row: Tensor) -> Tensor:
        """Given the row of the chosen stage (b, t), -1 for none: (b, t, most), entry k stands for k + 1 executors."""
        at = row.clamp_min(0)[..., None]
        stage = pick(embedded["stages"], at)[..., 0, :]
        job = pick(embedded["jobs"], stage[..., JOB : JOB + 1].long())[..., 0, :]
        wanted = self.hidden(hidden)[..., HIDDEN:] + pick(self._pairs(embedded, self.place), at)[..., 0, :]
        committable, size = embedded["committable"].float(), cluster_size(embedded)
        most = torch.minimum(committable, stage[..., DEMAND])
        numbers = torch.arange(1, max(1, int(committable.max())) + 1, device=hidden.device).float()
        k = numbers.expand(*row.shape, -1)
        features = torch.stack(
            [
                k / size[..., None],
                k.log() / 4,
                (k + job[..., SUPPLY, None]) / size[..., None],
                k / committable.clamp_min(1)[..., None],
                k / most.clamp_min(1)[..., None],
            ],
            dim=-1,
        )
        scores = self.count(self.number(features) + wanted[..., None, :])[..., 0]
        return scores.float().masked_fill(k > most.clamp_min(1)[..., None], NEVER)

    def loss(
        self, hidden: Tensor, embedded: Mapping[str, Tensor], action: Tensor, target: Tensor | None, mask: Tensor
    ) -> Tensor:
        """Cross-entropy of the stage plus that of the number of executors, where a stage was chosen.

        `target` (b, t, 2) is the action that was meant; where it is 0 executors nobody said, and the one taken counts.
        """
        if target is not None:
            action = torch.where(target[..., 1:] > 0, target.long(), action)
        row = chosen_row(action[..., 0], embedded)
        stage_loss = nn.functional.cross_entropy(self.logits(hidden, embedded)[mask], row[mask] + 1)
        some = mask & (row >= 0)
        logits = self.executor_logits(hidden, embedded, row)
        useful = (logits > NEVER).sum(-1)  # more than a stage can use come to the same
        count = torch.minimum(action[..., 1], useful).clamp_min(1)
        return stage_loss + nn.functional.cross_entropy(logits[some], count[some] - 1)

    def decide(
        self, hidden: Tensor, embedded: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        """(b, t, 2): index in the list of schedulable stages or -1, executors (all that are left for -1)."""
        row = _choose(self.logits(hidden, embedded), generator) - 1
        count = 1 + _choose(self.executor_logits(hidden, embedded, row), generator)
        schedulable = embedded["stages"][..., SCHEDULABLE] > 0
        place = schedulable.cumsum(-1).gather(-1, row.clamp_min(0)[..., None])[..., 0] - 1
        none = row < 0
        return torch.stack(
            [torch.where(none, -1, place), torch.where(none, embedded["committable"].long(), count)], dim=-1
        )

    def _pairs(self, embedded: Mapping[str, Tensor], layer: nn.Linear) -> Tensor:
        """Of each stage with its job, (b, t, stages, HIDDEN)."""
        job = pick(embedded["job"], embedded["stages"][..., JOB].long())
        paired: Tensor = layer(torch.cat([embedded["stage"], job], dim=-1))
        return paired


def _choose(logits: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return logits.argmax(-1)
    return torch.multinomial(logits.softmax(-1).flatten(0, -2), 1, generator=generator).view(logits.shape[:-1])
