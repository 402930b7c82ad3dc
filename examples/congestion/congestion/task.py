"""`task=congestion`: the traces of any data set of ABR, two baselines, and networks from the shared building blocks."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from pydantic import ConfigDict, InstanceOf, NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import nn

from congestion.policies import aimd, delay_based
from congestion.simulator import MULTIPLIERS, Link
from edgenetllm.tasks.abr.data.datasets import TraceData
from edgenetllm.tasks.abr.data.splits import Splits
from edgenetllm.tasks.abr.summary import describe, warnings
from edgenetllm.tasks.common.encoders import VectorEncoder
from edgenetllm.tasks.common.heads import ChoiceHead
from edgenetllm.tasks.common.heuristic import FunctionPolicy
from edgenetllm.tasks.task import SPLITS, Array, Metric, Split, Task


@dataclass(config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class CongestionTask(Task):
    """Options of `task=congestion`; `data` is the object of the data group."""

    name: str
    data: InstanceOf[TraceData]
    steps: PositiveInt  # decisions in an episode
    delay_penalty: NonNegativeFloat  # of a second in the queue
    loss_penalty: NonNegativeFloat  # of the loss of all that was sent

    metrics = (
        Metric("utility", "utility", "", True),
        Metric("delivered_mbps", "throughput", "Mbps", True),
        Metric("delay_s", "queueing delay", "s", False),
        Metric("lost", "loss", "of what was sent", False),
    )
    return_scale = 30.0

    @property
    def max_steps(self) -> int:
        return self.steps

    def data_hash(self, splits: Sequence[Split] = SPLITS) -> str:
        return f"{self.steps} {self.delay_penalty} {self.loss_penalty} {self._splits.sha256(splits)}"

    def describe_data(self) -> list[str]:
        return [f"data: {self.data.name}, {self._splits.describe()}", *describe(self._splits)]

    def notes(self) -> list[str]:
        return [*filter(None, [self._splits.shared_note()]), *warnings(self._splits)]

    def environment(self, split: Split) -> Link:
        traces, penalties = self._splits.of(split, self.data.name), (self.delay_penalty, self.loss_penalty)
        return Link(traces, self.steps, penalties, random_start=split == "train")

    def seeds(self, split: Split) -> Array:
        return np.arange(len(self._splits.of(split, self.data.name)))

    def baselines(self) -> dict[str, FunctionPolicy]:
        return {"aimd": FunctionPolicy("aimd", aimd), "delay_based": self.teacher()}

    def teacher(self) -> FunctionPolicy:
        return FunctionPolicy("delay_based", delay_based)

    def encoder(self, width: int) -> VectorEncoder:
        scales = {"rate_mbps": 10.0, "delivered_mbps": 10.0, "delay_s": 1.0, "lost": 1.0}
        return VectorEncoder(width, scales, action=nn.Embedding(len(MULTIPLIERS), width))

    def head(self, width: int) -> ChoiceHead:
        return ChoiceHead(width, len(MULTIPLIERS))

    @cached_property
    def _splits(self) -> Splits:
        return self.data.splits()
