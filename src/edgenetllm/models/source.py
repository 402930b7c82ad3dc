"""The contract of a source of backbones, and what all sources share.

Every source gives the same thing: the first `layers` decoder blocks, the scale of the token embeddings that the
blocks are used to, and an identity (label and hash) that checkpoints and bundles carry instead of the frozen weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

STRICT = ConfigDict(extra="forbid")


@dataclass
class Backbone:
    """`decoder` takes inputs_embeds (batch, tokens, width); `embedding_rms` is the root mean square of a token embedding."""

    decoder: nn.Module
    embedding_rms: float
    identity: dict[str, str | int]


class BackboneSource(Protocol):
    layers: int | None

    @property
    def label(self) -> str:
        """The name that the model has in results, checkpoints and folders."""
        ...

    def architecture(self) -> dict[str, Any]:
        """The transformers configuration, without loading any weight."""
        ...

    def check_files(self) -> None:
        """Raises UserError where stored weights are absent or broken; cheap, for they are not read."""
        ...

    def fingerprint(self) -> str:
        """An identity that changes whenever the model has changed, for cache keys."""
        ...

    def load(self, dtype: torch.dtype = torch.float32) -> Backbone:
        """`dtype` is that of the blocks' matrices where a source can give them so without a float32 copy; else float32."""
        ...

    def embed_text(self, text: str) -> Tensor:
        """(tokens, width) float32: the tokens of the whole text, no start or end token added, as `inputs_embeds`.

        The decoder computes from these what the pretrained model computes from the tokens: a scale of the embedding
        (Gemma) is in them, learned positions (GPT-2) are not, as the decoder itself adds them.
        Raises UserError for a model without a tokenizer.
        """
        ...


def embedding_rms(model: nn.Module) -> float:
    """The root mean square of what the model feeds to its first block for a token, scaled where it scales (Gemma)."""
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    rms = float(embedding.weight.detach().float().pow(2).mean().sqrt())
    if type(embedding) is nn.Embedding:
        return rms
    some = torch.arange(min(100, embedding.weight.shape[0]))
    fed, stored = embedding(some).detach().float(), embedding.weight[some].detach().float()
    return rms * float(fed.norm() / stored.norm())


def identity(name: str, digest: str, decoder: nn.Module) -> dict[str, str | int]:
    return {"name": name, "hash": digest, "layers": int(decoder.config.num_hidden_layers)}  # type: ignore[union-attr,arg-type]
