"""The tokens that one step adds. Small on purpose: the history is the backbone's work, unless `features=history`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgenetllm.tasks.abr.data.ladder import PUBLIC, Ladder
from edgenetllm.tasks.abr.protocol import CHUNKS, PAST
from edgenetllm.tasks.task import Encoder

HIDDEN = 64
FEATURES = ("bitrate", "buffer", "throughput", "delay", "next_sizes", "chunks_left")  # of one step, in this order


def raw_features(observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(batch, steps, ...) -> name -> (batch, steps, n), each around the unit range (of a video of 48 chunks)."""
    levels = observation["next_sizes_mb"].shape[-1]
    return {
        "bitrate": nn.functional.one_hot(observation["last_quality"].long(), levels).float(),
        "buffer": observation["buffer_s"][..., None] / 20,
        "throughput": observation["throughput_mbps"].clamp_min(1e-3).log()[..., None],
        "delay": (observation["delay_s"].clamp_min(1e-3) / 4).log()[..., None],
        "next_sizes": observation["next_sizes_mb"],
        "chunks_left": observation["chunks_left"][..., None] / CHUNKS,
    }


def plain_features(observation: Mapping[str, Tensor], ladder: Ladder = PUBLIC) -> dict[str, Tensor]:
    """`features=plain`: the same, as numbers that are scaled by a constant only, as NetLLM and Pensieve feed them."""
    return {
        "bitrate": torch.as_tensor(ladder.mbps / ladder.mbps[-1]).to(observation["buffer_s"])[
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


def sizes(features: Features, levels: int) -> dict[str, int]:
    """Number of values of each of FEATURES."""
    several = {"next_sizes": levels, "bitrate": 1 if features == "plain" else levels}
    return {name: several.get(name, 1) for name in FEATURES}


class LevelEncoder(Encoder):
    """The features of a step as `features` says, and an embedding of each level of the ladder."""

    def __init__(self, width: int, features: Features = "raw", ladder: Ladder = PUBLIC) -> None:
        super().__init__()
        self.features, self.ladder = features, ladder
        self.build(width)
        self.actions = nn.Embedding(ladder.levels, width)

    def build(self, width: int) -> None:
        """Make the layers that map features to tokens."""
        raise NotImplementedError

    def _for_edge(self, kind: str) -> dict[str, Any]:
        return {"kind": kind, "features": self.features, "mbps": self.ladder.mbps.tolist()}

    def computed(self, embedded: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return plain_features(embedded, self.ladder) if self.features == "plain" else raw_features(embedded)

    def action(self, action: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        return self.actions(action)  # type: ignore[no-any-return]


class FusedEncoder(LevelEncoder):
    """`tokens=fused`: all features of a step in one token."""

    tokens_per_step = 1

    def for_edge(self) -> dict[str, Any] | None:
        return self._for_edge("abr_fused") if type(self) is FusedEncoder else None

    def build(self, width: int) -> None:
        more = 2 * PAST + 1 if self.features == "history" else 0
        inputs = sum(sizes(self.features, self.ladder.levels).values()) + more
        self.network = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, width))

    def state(self, embedded: Mapping[str, Tensor]) -> Tensor:
        features = list(self.computed(embedded).values())
        if self.features == "history":
            features.append(history_features(embedded))
        return self.network(torch.cat(features, dim=-1))[:, :, None]  # type: ignore[no-any-return]


class PerFeatureEncoder(LevelEncoder):
    """`tokens=per_feature`: six tokens a step, one per feature, each with its own linear map (NetLLM's layout)."""

    tokens_per_step = len(FEATURES)

    def for_edge(self) -> dict[str, Any] | None:
        return self._for_edge("abr_per_feature") if type(self) is PerFeatureEncoder else None

    def build(self, width: int) -> None:
        counts = sizes(self.features, self.ladder.levels)
        self.maps = nn.ModuleDict({name: nn.Linear(size, width) for name, size in counts.items()})

    def state(self, embedded: Mapping[str, Tensor]) -> Tensor:
        features = self.computed(embedded)
        return torch.stack([self.maps[name](value) for name, value in features.items()], dim=2)
