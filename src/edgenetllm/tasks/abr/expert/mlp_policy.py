"""Small causal networks that choose qualities: the expert that is searched for in the simulator."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgenetllm.tasks.abr.networks.encoder import history_features, raw_features, sizes
from edgenetllm.tasks.abr.protocol import PAST
from edgenetllm.tasks.abr.simulator.qoe import LEVELS
from edgenetllm.tasks.task import Array, Observation

NEEDED = (
    "last_quality", "buffer_s", "throughput_mbps", "delay_s", "next_sizes_mb", "chunks_left", "past_throughput_mbps",
    "past_delay_s",
)  # fmt: skip


class QualityNetwork(nn.Module):
    """The `Policy` of tasks/task.py over a network that gives probabilities of the qualities."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def identity(self) -> str:
        """The class and a hash of all weights."""
        digest = hashlib.sha256()
        for name, value in self.state_dict().items():
            digest.update(f"{name} {tuple(value.shape)}".encode() + value.numpy().tobytes())
        return f"{type(self).__name__}({digest.hexdigest()})"

    def start(self, episodes: int) -> None:
        """Keeps no state: the history is in the observation."""

    def act(self, observation: Observation) -> Array:
        """The most probable quality of each episode."""
        return np.asarray(self.targets(observation).argmax(1))

    def targets(self, observation: Observation) -> npt.NDArray[np.float32]:
        """Probabilities of the qualities, (episodes, levels)."""
        with torch.no_grad():
            return np.asarray(self.probabilities(features(observation)).numpy(), np.float32)

    def probabilities(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError


class MlpPolicy(QualityNetwork):
    """A multilayer perceptron of the step's features and the last eight throughputs."""

    def __init__(self, name: str = "expert", hidden: int = 128, levels: int = LEVELS) -> None:
        super().__init__(name)
        inputs = sum(sizes("raw", levels).values()) + 2 * PAST + 1
        layers = [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, levels)]
        self.network = nn.Sequential(*layers)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (states, n) to logits (states, levels)."""
        logits: Tensor = self.network(inputs)
        return logits

    def probabilities(self, inputs: Tensor) -> Tensor:
        return self(inputs).softmax(-1)  # type: ignore[no-any-return]


class EnsemblePolicy(QualityNetwork):
    """The mean of the probabilities of several networks."""

    def __init__(self, members: Sequence[MlpPolicy], name: str = "expert") -> None:
        super().__init__(name)
        self.members = nn.ModuleList(members)

    def probabilities(self, inputs: Tensor) -> Tensor:
        return torch.stack([member.probabilities(inputs) for member in self.members]).mean(0)  # type: ignore[operator]


def features(observation: Observation) -> Tensor:
    """Observation of episodes (episodes, ...) to network inputs (episodes, n)."""
    tensors = {name: torch.from_numpy(np.asarray(observation[name], np.float32)) for name in NEEDED}
    return torch.cat([*raw_features(tensors).values(), history_features(tensors)], dim=-1)
