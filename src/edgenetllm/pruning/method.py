"""What every pruning method offers beside its pure function: a name, what it needs to know, and its options."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from edgenetllm.pruning.calibration import Statistic
from edgenetllm.pruning.masks import Pattern


class Method:
    """A pruning criterion with its options; the function behind it stands in the same file."""

    name: ClassVar[str]
    statistic: ClassVar[Statistic | None]  # what it needs to know of a layer's inputs

    @property
    def label(self) -> str:
        """The name, with the options that make another curve of it."""
        return self.name

    def prune(
        self, weight: Tensor, statistic: Tensor | None, sparsity: float, pattern: Pattern | None, seed: int
    ) -> Tensor:
        """A pruned copy of `weight` (out, in); `statistic` is there if `self.statistic` asks for one."""
        raise NotImplementedError
