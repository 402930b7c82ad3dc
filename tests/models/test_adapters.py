"""LoRA: attached everywhere it should be, trainable alone, and merged without changing the function."""

from __future__ import annotations

import pytest
import torch

from edgenetllm.models.adapters import Full, Lora, NoAdapter, cast_frozen_linears, merge
from edgenetllm.models.decoder import build_decoder, linear_layers, width


def test_merge_equals_the_adapted_model_and_restores_plain_layers(architecture):
    torch.manual_seed(0)
    decoder = build_decoder(architecture).eval()
    names = set(decoder.state_dict())
    Lora(rank=4, alpha=8).attach(decoder, seed=0)
    for name, parameter in decoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    tokens = torch.randn(2, 7, width(decoder))
    adapted = decoder(inputs_embeds=tokens).last_hidden_state
    merge(decoder)
    assert set(decoder.state_dict()) == names
    torch.testing.assert_close(decoder(inputs_embeds=tokens).last_hidden_state, adapted, atol=1e-5, rtol=1e-4)


def test_only_adapters_train_and_every_matrix_has_one(architecture):
    decoder = build_decoder(architecture)
    matrices = len(linear_layers(decoder))
    Lora(rank=4).attach(decoder, seed=0)
    trainable = [name for name, p in decoder.named_parameters() if p.requires_grad]
    assert len(trainable) == 2 * matrices
    assert all("lora_" in name for name in trainable)


@pytest.mark.parametrize("targets", ["attention", "mlp"])
def test_targets_split_the_matrices_in_two(architecture, targets):
    decoder = build_decoder(architecture)
    all_layers = set(linear_layers(decoder))
    Lora(rank=2, targets=targets).attach(decoder, seed=0)
    adapted = {n.split(".lora_A")[0] for n, _ in decoder.named_parameters() if "lora_A" in n}
    attention = {n for n in all_layers if "attn" in n}
    assert adapted == (attention if targets == "attention" else all_layers - attention)


def test_the_seed_alone_decides_the_adapter():
    settings = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2}  # fmt: skip
    decoders = [build_decoder(settings) for _ in range(2)]
    for decoder, noise in zip(decoders, (1, 2), strict=True):
        torch.manual_seed(noise)
        Lora(rank=2).attach(decoder, seed=5)
    first, second = ({n: p for n, p in d.named_parameters() if "lora_A" in n} for d in decoders)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], atol=0, rtol=0)


def test_frozen_matrices_can_be_bfloat16_while_adapters_stay_float32(architecture):
    decoder = build_decoder(architecture)
    Lora(rank=2).attach(decoder, seed=0)
    cast_frozen_linears(decoder, torch.bfloat16)
    kinds = {
        ("lora_" in n, p.dtype)
        for n, p in decoder.named_parameters()
        if p.dim() == 2 and n.startswith(("layers.", "h."))
    }
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_with_full_everything_in_the_backbone_trains_in_float32(architecture):
    decoder = build_decoder(architecture).to(torch.bfloat16)
    Full().attach(decoder, seed=0)
    cast_frozen_linears(decoder, torch.bfloat16)  # none is frozen
    assert all(p.requires_grad and p.dtype == torch.float32 for p in decoder.parameters())
    merge(decoder)
    assert not any(p.requires_grad for p in decoder.parameters())


def test_without_adapter_nothing_in_the_backbone_trains(architecture):
    decoder = build_decoder(architecture)
    NoAdapter().attach(decoder, seed=0)
    assert not any(p.requires_grad for p in decoder.parameters())
