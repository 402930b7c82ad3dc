"""An answer of several rows at once, by one linear map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from edgenetllm.tasks.common.heads import finite
from edgenetllm.tasks.supervised.networks.encoder import _float32, around
from edgenetllm.tasks.supervised.networks.features import Statistics
from edgenetllm.tasks.supervised.simulator.forecast import Form
from edgenetllm.tasks.task import Head


class RowsHead(Head):
    """All rows of an answer as distances from the last known row, in units of what is usual in training.

    It begins as the policy `still`: every distance is 0. Its loss is the mean absolute error in units of `unit` (answers,),
    which the median minimises. An answer has no spread: a sampled one is the same.
    """

    def __init__(self, width: int, form: Form, statistics: Statistics, unit: Sequence[float]) -> None:
        super().__init__()
        self.form, self.rows, self.answers = form, form.answer_rows, len(form.answers)
        self.linear = nn.Linear(width, self.rows * self.answers)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.change = nn.Parameter(_float32(statistics.change))  # (rows, answers)
        self.unit: Tensor
        self.periods: Tensor
        self.register_buffer("unit", torch.tensor(unit, dtype=torch.float32), persistent=False)
        self.register_buffer("periods", torch.tensor(form.answer_periods, dtype=torch.float32), persistent=False)

    def lr_multipliers(self) -> dict[str, float]:
        return {"change": 0.0}

    def for_edge(self) -> dict[str, Any] | None:
        return {"kind": "rows", "rows": self.rows, "periods": list(self.form.answer_periods)}

    def logits(self, hidden: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        """Distances in units of `change`, (batch, steps, width) -> (batch, steps, rows * answers)."""
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
        """Mean absolute error of the right answers (batch, steps, n + 1) where given, else of the action, in `unit`s."""
        (decisions,) = self.counts(action, target, mask) if counts is None else counts
        given, right = self._rows(hidden, embedded)[mask], action[mask].flatten(1).float()
        if target is not None:
            answers = target[mask]
            right = torch.where(answers[:, -1:] > 0, answers[:, :-1], right)
        error = around(given - right.view_as(given), self.periods).abs() / self.unit
        return error.mean((1, 2)).sum() / decisions.clamp_min(1e-6)

    def decide(
        self, hidden: Tensor, embedded: Mapping[str, Tensor], generator: torch.Generator | None = None
    ) -> Tensor:
        """(batch, steps, width) -> (batch, steps, rows, answers); angles within half a period of zero."""
        rows, safe = finite(self._rows(hidden, embedded)), torch.where(self.periods > 0, self.periods, 1.0)
        return torch.where(self.periods > 0, torch.remainder(rows + safe / 2, safe) - safe / 2, rows)

    def _rows(self, hidden: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        """(batch, steps, rows, answers), angles not wrapped."""
        distances = self.logits(hidden, embedded).unflatten(-1, (self.rows, self.answers))
        return embedded["base"][..., None, :] + distances * self.change
