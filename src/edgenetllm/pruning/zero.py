"""The control: every weight of the backbone is zero, so that its blocks pass their input on. No retention without it."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from edgenetllm.pruning.masks import Pattern
from edgenetllm.pruning.method import Method, Statistic


@dataclass(config=ConfigDict(extra="forbid"))
class Zero(Method):
    """`pruning=zero sparsity=1`: encoder and head are on their own."""

    name: ClassVar[str] = "zero"
    statistic: ClassVar[Statistic | None] = None

    @property
    def label(self) -> str:
        return "100 % sparse"

    def prune(
        self, weight: Tensor, statistic: Tensor | None, sparsity: float, pattern: Pattern | None, seed: int
    ) -> Tensor:
        return torch.zeros_like(weight)
