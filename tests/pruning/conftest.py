"""Pruning sees layers, not attention: Llama 3 and Mistral have the same ones as Llama."""

from __future__ import annotations

import pytest
from small import ARCHITECTURES


@pytest.fixture(params=["gpt2", "llama", "opt", "qwen2"])
def architecture(request) -> dict:
    return dict(ARCHITECTURES[request.param])
