"""A history as tokens: `patch` rows in each, by a network with one hidden layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgenetllm.tasks.supervised.networks.features import HIDDEN, Statistics, features_per_row
from edgenetllm.tasks.supervised.simulator.forecast import Form
from edgenetllm.tasks.task import Encoder


class SeriesEncoder(Encoder):
    """The `history` (batch, steps, rows, inputs) in tokens of `patch` rows each.

    Of each row a network sees how far every input is from the last row, and where it is: an angle by sine and cosine, any
    other number less its mean in units of its deviation. These sizes are parameters that are stored and never change, so that
    other data are seen as those that it learnt from.
    """

    fixed = ("moved", "centre", "scale", "base")

    def __init__(self, width: int, form: Form, patch: int, statistics: Statistics) -> None:
        super().__init__()
        self.form, self.patch, self.width = form, patch, width
        self.tokens_per_step = form.history // patch
        self.angles = [number for number, period in enumerate(form.periods) if period > 0]
        self.plain = [number for number, period in enumerate(form.periods) if not period]
        for name in self.fixed:
            setattr(self, name, nn.Parameter(_float32(getattr(statistics, name))))
        self.register_buffer("periods", torch.tensor(form.periods, dtype=torch.float32), persistent=False)
        inner = patch * features_per_row(form)
        self.network = nn.Sequential(nn.Linear(inner, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, width))
        self.place = nn.Parameter(torch.zeros(self.tokens_per_step, width))

    def lr_multipliers(self) -> dict[str, float]:
        return dict.fromkeys(self.fixed, 0.0)

    def for_edge(self) -> dict[str, Any] | None:
        form = self.form
        return {
            "kind": "series", "history": form.history, "patch": self.patch, "periods": list(form.periods),
            "seen_again": list(form.seen_again), "rows": form.answer_rows,
        }  # fmt: skip

    def embed(self, observation: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """`features` (batch, steps, rows, n), and `base` (batch, steps, answers), which answers count from."""
        history = observation["history"].float()
        last = history[..., -1:, :]
        features = [around(history - last, self.periods) / self.moved]  # type: ignore[arg-type,operator]
        if self.plain:
            features.append(((history - self.centre) / self.scale)[..., self.plain])  # type: ignore[operator]
        if self.angles:
            turned = history[..., self.angles] * (2 * math.pi) / self.periods[self.angles]  # type: ignore[index]
            features += [turned.sin(), turned.cos()]
        base = [
            last[..., 0, place] if place >= 0 else self.base[number].expand(last.shape[:2])  # type: ignore[index]
            for number, place in enumerate(self.form.seen_again)
        ]
        return {"features": torch.cat(features, dim=-1), "base": torch.stack(base, dim=-1)}

    def state(self, embedded: Mapping[str, Tensor]) -> Tensor:
        features = embedded["features"]
        patches = features.reshape(*features.shape[:2], self.tokens_per_step, -1)
        return self.network(patches) + self.place  # type: ignore[no-any-return]

    def action(self, action: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        """Nothing: answers are independent of each other, and leave no token."""
        return embedded["features"].new_zeros(*action.shape[:2], self.width)


def around(distance: Tensor, periods: Tensor) -> Tensor:
    """Distances (..., columns) the nearest way round, where a column has a period above 0."""
    return distance - periods * torch.round(distance / torch.where(periods > 0, periods, 1.0))


def _float32(values: Any) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.float32).copy())
