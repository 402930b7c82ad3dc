"""A variant of Wanda: the norm of a weight's input counts less, or more, than the weight itself."""

from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor

from edgenetllm.pruning.masks import Pattern
from edgenetllm.pruning.wanda import Wanda, prune


@dataclass(config={"extra": "forbid"})
class PowerWanda(Wanda):
    """Weights ranked by |w| times a power of the norm of their input: power 1 is Wanda, 0 magnitude by row."""

    name: ClassVar[str] = "power_wanda"
    power: float = 0.5

    def prune(
        self, weight: Tensor, statistic: Tensor | None, sparsity: float, pattern: Pattern | None, seed: int
    ) -> Tensor:
        assert statistic is not None
        return prune(weight, statistic.pow(self.power), sparsity, pattern)
