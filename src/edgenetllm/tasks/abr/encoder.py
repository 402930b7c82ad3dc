"""What one step adds, as tokens. Small on purpose: the history is the backbone's work, unless `features=history`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from edgenetllm.tasks.abr.environment import PAST
from edgenetllm.tasks.abr.qoe import BITRATES_MBPS, LEVELS
from edgenetllm.tasks.abr.videos import CHUNKS
from edgenetllm.tasks.task import Encoder

HIDDEN = 64
# Raw features of one step, and how many numbers each is.
FEATURES = {"bitrate": LEVELS, "buffer": 1, "throughput": 1, "delay": 1, "next_sizes": LEVELS, "chunks_left": 1}


def raw_features(observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(batch, steps, ...) -> name -> (batch, steps, n), each around the unit range."""
    return {
        "bitrate": nn.functional.one_hot(observation["last_quality"].long(), LEVELS).float(),
        "buffer": observation["buffer_s"][..., None] / 20,
        "throughput": observation["throughput_mbps"].clamp_min(1e-3).log()[..., None],
        "delay": (observation["delay_s"].clamp_min(1e-3) / 4).log()[..., None],
        "next_sizes": observation["next_sizes_mb"],
        "chunks_left": observation["chunks_left"][..., None] / CHUNKS,
    }


def plain_features(observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`features=plain`: the same, as numbers that are scaled by a constant only, as NetLLM and Pensieve feed them."""
    return {
        "bitrate": torch.as_tensor(BITRATES_MBPS / BITRATES_MBPS[-1]).to(observation["buffer_s"])[
            observation["last_quality"].long()
        ][..., None],
        "buffer": observation["buffer_s"][..., None] / 10,
        "throughput": observation["throughput_mbps"][..., None] / 8,
        "delay": observation["delay_s"][..., None] / 10,
        "next_sizes": observation["next_sizes_mb"],
        "chunks_left": observation["chunks_left"][..., None] / CHUNKS,
    }


def history_features(observation: Mapping[str, Tensor]) -> Tensor:
    """`features=history`: the last eight throughputs and delays, and their harmonic mean, (batch, steps, 17)."""
    past = observation["past_throughput_mbps"]
    known = past > 0
    mean = known.sum(-1, keepdim=True) / (known / past.clamp_min(1e-3)).sum(-1, keepdim=True).clamp_min(1e-6)
    logarithms = [(value.clamp_min(1e-3)).log() * known for value in (past, observation["past_delay_s"] / 4)]
    return torch.cat([*logarithms, mean.clamp_min(1e-3).log()], dim=-1)


Features = Literal["raw", "history", "plain"]
SIZES: dict[Features, dict[str, int]] = {"raw": FEATURES, "history": FEATURES, "plain": {**FEATURES, "bitrate": 1}}
COMPUTED: dict[Features, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]] = {
    "raw": raw_features,
    "history": raw_features,
    "plain": plain_features,
}


class FusedEncoder(Encoder):
    """`tokens=fused`: all features of a step in one token."""

    tokens_per_step = 1

    def __init__(self, width: int, features: Features = "raw") -> None:
        super().__init__()
        self.features = features
        inputs = sum(SIZES[features].values()) + (2 * PAST + 1 if features == "history" else 0)
        self.network = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, width))
        self.actions = nn.Embedding(LEVELS, width)

    def state(self, embedded: Mapping[str, Tensor]) -> Tensor:
        features = list(COMPUTED[self.features](embedded).values())
        if self.features == "history":
            features.append(history_features(embedded))
        return self.network(torch.cat(features, dim=-1))[:, :, None]  # type: ignore[no-any-return]

    def action(self, action: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        return self.actions(action)  # type: ignore[no-any-return]


class PerFeatureEncoder(Encoder):
    """`tokens=per_feature`: six tokens a step, one per feature, each with its own linear map (NetLLM's layout)."""

    tokens_per_step = len(FEATURES)

    def __init__(self, width: int, features: Features = "raw") -> None:
        super().__init__()
        self.features = features
        self.maps = nn.ModuleDict({name: nn.Linear(size, width) for name, size in SIZES[features].items()})
        self.actions = nn.Embedding(LEVELS, width)

    def state(self, embedded: Mapping[str, Tensor]) -> Tensor:
        features = COMPUTED[self.features](embedded)
        return torch.stack([self.maps[name](value) for name, value in features.items()], dim=2)

    def action(self, action: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        return self.actions(action)  # type: ignore[no-any-return]
