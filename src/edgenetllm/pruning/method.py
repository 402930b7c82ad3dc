"""What every pruning method offers beside its pure function: a name, what it needs to know, and its options."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from edgenetllm.pruning.calibration import Statistic
from edgenetllm.pruning.masks import Pattern


def unusual(options: object, *names: str) -> list[str]:
    """`name=value` of the fields (of all, or of `names`) of a pydantic dataclass that do not have their default."""
    fields = getattr(options, "__pydantic_fields__", {})
    values = {name: getattr(options, name) for name in names or fields}
    return [f"{k}={v}" for k, v in values.items() if v != fields[k].get_default(call_default_factory=True)]


class Method:
    """A pruning criterion with its options; the function behind it stands in the same file."""

    name: ClassVar[str]
    statistic: ClassVar[Statistic | None]  # what it needs to know of a layer's inputs

    @property
    def label(self) -> str:
        """The name, with the options that make another curve of it."""
        return " ".join([self.name, *unusual(self)])

    def prune(
        self, weight: Tensor, statistic: Tensor | None, sparsity: float, pattern: Pattern | None, seed: int
    ) -> Tensor:
        """A pruned copy of `weight` (out, in); `statistic` is there if `self.statistic` asks for one."""
        raise NotImplementedError
