"""The compiled decoder refuses what it cannot do, each with a sentence that says what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from families import DENSE, settings_of
from small import ARCHITECTURES

from edgenetllm.edge.compiled.architectures import READERS, check_supported
from edgenetllm.edge.compiled.arena import quantise_rows
from edgenetllm.edge.compiled.decoder import CompiledDecoder
from edgenetllm.errors import UserError
from edgenetllm.models.decoder import build_decoder, decoder_config

LLAMA3 = ARCHITECTURES["llama3"]["rope_parameters"]
CHANGES: list[tuple[str, str, Any]] = [
    ("llama", "hidden_act", "gelu"),
    ("llama", "rope_parameters", {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0}),
    ("llama", "rope_parameters", {"rope_type": "linear", "factor": 2.0}),
    ("llama", "rope_parameters", {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
    ("llama", "rope_parameters", {"rope_type": "default", "attention_factor": 2.0}),
    ("llama", "rope_parameters", {**LLAMA3, "high_freq_factor": 1.0}),
    ("llama", "rope_scaling", {"type": "dynamic", "factor": 2.0}),
    ("llama", "partial_rotary_factor", 0.5),
    ("llama", "logit_scale", 0.1),
    ("llama", "head_dim", 7),
    ("llama", "num_key_value_heads", 3),
    ("llama", "num_hidden_layers", 0),
    ("llama", "rms_norm_eps", float("nan")),
    ("llama", "attention_bias", "yes"),
    ("llama", "layer_types", ["sliding_attention"] * 3),
    ("llama", "rope_interleaved", True),
    ("mistral", "layer_types", ["full_attention"] * 3),
    ("mistral", "sliding_window", 0),
    ("qwen2", "layer_types", ["sliding_attention", "full_attention", "full_attention"]),
    ("gpt2", "activation_function", "gelu"),
    ("gpt2", "scale_attn_weights", False),
    ("gpt2", "scale_attn_by_inverse_layer_idx", True),
    ("gpt2", "reorder_and_upcast_attn", True),
    ("gpt2", "add_cross_attention", True),
    ("gpt2", "n_head", 5),
    ("opt", "do_layer_norm_before", False),
    ("opt", "_remove_final_layer_norm", True),
    ("opt", "layer_norm_elementwise_affine", False),
    ("opt", "activation_function", "gelu"),
]


def config_of(name: str) -> dict[str, Any]:
    return decoder_config(dict(ARCHITECTURES[name]), None).to_dict()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_run(name: str) -> None:
    check_supported(config_of(name))
    check_supported(ARCHITECTURES[name])  # transformers' defaults for what is absent


@pytest.mark.parametrize("kind", sorted(DENSE.keys() - READERS.keys()))
def test_other_architectures_are_refused(kind: str) -> None:
    with pytest.raises(UserError, match=rf"does not run {kind} \(it runs llama, .*\): type engine=torch"):
        check_supported(decoder_config(settings_of(kind), None).to_dict())


@pytest.mark.parametrize(("name", "key", "value"), CHANGES)
def test_keys_that_change_the_computation_are_refused(name: str, key: str, value: Any) -> None:
    with pytest.raises(UserError, match=r"says .*=.*type engine=torch") as raised:
        check_supported({**config_of(name), key: value})
    assert f"this {name}" in str(raised.value)


def weights_of(name: str) -> dict[str, Any]:
    return {key: value.numpy().copy() for key, value in build_decoder(ARCHITECTURES[name]).state_dict().items()}


def drop(weights: dict[str, Any]) -> None:
    del weights["layers.1.mlp.up_proj.weight"]


def add(weights: dict[str, Any]) -> None:
    weights["layers.1.mlp.up_proj.bias"] = np.zeros(64, np.float32)


def turn(weights: dict[str, Any]) -> None:
    weights["layers.1.mlp.up_proj.weight"] = weights["layers.1.mlp.up_proj.weight"].T


def spoil(weights: dict[str, Any]) -> None:
    weights["layers.1.mlp.up_proj.weight"][0, 0] = np.nan


def whole(weights: dict[str, Any]) -> None:
    weights["layers.1.mlp.up_proj.weight"] = weights["layers.1.mlp.up_proj.weight"].astype(np.int64)


def round_norm(weights: dict[str, Any]) -> None:
    weights["norm.weight"] = quantise_rows(weights["norm.weight"][None])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"lack layers.1.mlp.up_proj.weight$"),
        (add, r"beyond .* layers.1.mlp.up_proj.bias$"),
        (turn, r"up_proj.weight .* the shape \(32, 64\), not \(64, 32\)"),
        (spoil, r"up_proj.weight .* finite"),
        (whole, r"up_proj.weight .* floating-point"),
        (round_norm, r"norm.weight .* not quantised"),
    ],
)
def test_other_weights_are_refused(change: Callable[[dict[str, Any]], None], message: str) -> None:
    weights = weights_of("llama")
    change(weights)
    with pytest.raises(UserError, match=message):
        CompiledDecoder(config_of("llama"), weights)


def test_a_transposed_matrix_as_floats_is_refused_in_the_other_orientation() -> None:
    weights = weights_of("gpt2")
    weights["h.0.attn.c_attn.weight"] = weights["h.0.attn.c_attn.weight"].T
    with pytest.raises(UserError, match=r"c_attn.weight .* the shape \(96, 32\), not \(32, 96\)"):
        CompiledDecoder(config_of("gpt2"), weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, r"engine.threads=0"),
        ({"form": "fp8"}, "int8 and bf16, not fp8"),
        ({"instructions": "sse"}, "sse"),
    ],
)
def test_other_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CompiledDecoder(config_of("llama"), weights_of("llama"), **options)


def make(name: str, **changes: Any) -> CompiledDecoder:
    torch.manual_seed(0)
    return CompiledDecoder({**config_of(name), **changes}, weights_of(name))


def test_tokens_that_do_not_fit_are_refused_and_change_nothing() -> None:
    compiled = make("llama")
    state, tokens = compiled.start(2, capacity=5, band=None), np.ones((2, 3, 32), np.float32)
    compiled.extend(state, tokens)
    with pytest.raises(UserError, match="3 tokens more than the 3 so far are beyond the capacity of 5"):
        compiled.extend(state, tokens)
    for wrong in (tokens[:1], tokens[:, :0], tokens[..., :31], tokens[0]):
        with pytest.raises(UserError, match=r"the shape \(2, n, 32\), not"):
            compiled.extend(state, wrong)
    for value in (np.nan, np.inf):
        tokens[1, 1, 1] = value
        with pytest.raises(UserError, match="finite"):
            compiled.extend(state, tokens[:, :2])
    tokens[:] = 1
    assert np.isfinite(compiled.extend(state, tokens[:, :2])).all()
    assert state.position == 5


@pytest.mark.parametrize("start", [{"episodes": 0}, {"capacity": 0}, {"band": 0}])
def test_nothing_to_start(start: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        make("llama").start(**{"episodes": 1, "capacity": 3, "band": None, **start})


def test_more_tokens_than_the_decoder_looks_back_over_are_refused() -> None:
    with pytest.raises(UserError, match="513 tokens are more than the 512 positions"):
        make("opt").start(1, capacity=513, band=None)
    with pytest.raises(UserError, match="gpt2 has learned positions"):
        make("gpt2").start(1, capacity=10, band=5)
    mistral = make("mistral", sliding_window=24)
    mistral.start(1, capacity=24, band=None)
    mistral.start(1, capacity=1000, band=24)
    for capacity, band in ((25, None), (1000, 25)):
        with pytest.raises(UserError, match="sees 24 tokens"):
            mistral.start(1, capacity=capacity, band=band)


def test_it_needs_no_torch() -> None:
    heavy = "torch transformers lightning hydra pooch"
    code = f"import sys, edgenetllm.edge.compiled.decoder; print([n for n in '{heavy}'.split() if n in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
