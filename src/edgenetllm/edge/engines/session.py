"""A session whose encoder and head are torch's, and whose decoder is anything that appends tokens of numpy arrays."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.models.session import Session

Floats = npt.NDArray[np.float32]


class StepDecoder(Protocol):
    """A decoder that runs step by step."""

    def start(self, episodes: int, *, capacity: int, band: int | None) -> Any:
        """The state of episodes that begin, with room for `capacity` tokens of each; with a band it has no end."""
        ...

    def extend(self, state: Any, tokens: Floats) -> Floats:
        """Append tokens (episodes, n, width); hidden state of the last one, (episodes, width)."""
        ...


class DecoderSession(Session):
    """A policy of one task that plays with another decoder than its own, of the same weights; `label` names its engine."""

    def __init__(
        self,
        policy: PolicyNetwork,
        target_return: float,
        decoder: StepDecoder,
        label: str,
        sample_seed: int | None = None,
    ) -> None:
        super().__init__(policy, target_return, "sparse", sample_seed)
        self.decoder, self.label = decoder, label

    def identity(self) -> str:
        """The engine with its options, and what determines every session's decisions."""
        return f"{self.label} {super().identity()}"

    def start_decoder(self, episodes: int) -> None:
        networks = self.networks
        self.state = self.decoder.start(episodes, capacity=networks.capacity, band=networks.band)

    def extend(self, tokens: Tensor) -> Tensor:
        hidden = self.decoder.extend(self.state, np.ascontiguousarray(tokens.cpu().numpy(), np.float32))
        return torch.from_numpy(hidden).to(tokens.device)[:, None]
