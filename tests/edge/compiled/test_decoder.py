"""The compiled decoder against transformers with the same weights, step by step with a cache."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small import ARCHITECTURES, ROOT
from torch import nn
from transformers.pytorch_utils import Conv1D

from edgenetllm.edge.compiled.arena import quantise_rows
from edgenetllm.edge.compiled.decoder import CompiledDecoder, State
from edgenetllm.edge.compiled.instructions import available
from edgenetllm.edge.compiled.layouts import Layout
from edgenetllm.edge.compiled.step import run_step
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.models.backbone import WheelBackbone
from edgenetllm.models.causal import new_cache, run_cached
from edgenetllm.models.decoder import build_decoder, linear_layers, weight_out_in

MORE: dict[str, dict[str, Any]] = {
    "llama with biases": {**ARCHITECTURES["llama"], "attention_bias": True, "mlp_bias": True, "head_dim": 10},
    "opt of one width": {**ARCHITECTURES["opt"], "word_embed_proj_dim": 32, "enable_bias": False},
    "gpt2 with relu": {**ARCHITECTURES["gpt2"], "n_inner": 48, "activation_function": "relu"},
}
SETTINGS = ARCHITECTURES | MORE
ROTARY = [name for name, settings in SETTINGS.items() if settings["model_type"] not in ("gpt2", "opt")]
BAND = 20


@pytest.fixture(autouse=True)
def no_gradient() -> Iterator[None]:
    with torch.no_grad():
        yield


def build(settings: dict[str, Any], sparsity: float = 0.0) -> nn.Module:
    """A decoder whose weights matter: random ones larger than at initialisation, biases and norms not trivial, some zeros."""
    torch.manual_seed(0)
    decoder = build_decoder(settings).eval()
    for parameter in decoder.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn_like(parameter))
        else:
            parameter.mul_(5).mul_(torch.rand_like(parameter) >= sparsity)
    return decoder


def matrices(decoder: nn.Module) -> dict[str, torch.Tensor]:
    """Name of each weight matrix -> a view of it, (out, in); OPT's projections are outside its blocks."""
    found = {f"{name}.weight": weight_out_in(layer) for name, layer in linear_layers(decoder).items()}
    around = [(name, layer) for name, layer in decoder.named_children() if isinstance(layer, nn.Linear | Conv1D)]
    return found | {f"{name}.weight": weight_out_in(layer) for name, layer in around}


def quantise(decoder: nn.Module) -> dict[str, Any]:
    """Round the decoder's matrices to int8 by row, in place; all weights, its matrices as these integers."""
    weights: dict[str, Any] = {name: value.numpy().copy() for name, value in decoder.state_dict().items()}
    for name, view in matrices(decoder).items():
        weights[name] = quantise_rows(view.numpy().copy())
        view.copy_(torch.from_numpy(weights[name].dense()))
    return weights


def round_to_bf16(decoder: nn.Module) -> dict[str, Any]:
    for view in matrices(decoder).values():
        view.copy_(view.bfloat16().float())
    return {name: value.numpy().copy() for name, value in decoder.state_dict().items()}


def worst_error(decoder: nn.Module, compiled: CompiledDecoder, band: int | None, steps: int = 48) -> float:
    """The largest relative error of a hidden state, of two episodes side by side: 2 tokens, then 3 at a time."""
    torch.manual_seed(1)
    state, cache = compiled.start(2, capacity=3 * steps, band=band), new_cache(decoder, band)
    worst = 0.0
    for step in range(steps):
        tokens = torch.randn(2, 2 if step == 0 else 3, compiled.width)
        expected = run_cached(decoder, tokens, cache, band)[:, -1].numpy()
        difference = compiled.extend(state, tokens.numpy()) - expected
        worst = max(worst, float((np.linalg.norm(difference, axis=1) / np.linalg.norm(expected, axis=1)).max()))
    return worst


@pytest.mark.parametrize("name", SETTINGS)
def test_int8_weights_as_transformers_runs_them(name: str) -> None:
    decoder = build(SETTINGS[name])
    compiled = CompiledDecoder(decoder.config.to_dict(), quantise(decoder))
    assert worst_error(decoder, compiled, band=None) < 3e-4  # activations are rounded to 16 bits


@pytest.mark.parametrize("name", SETTINGS)
def test_bf16_weights_as_transformers_runs_them(name: str) -> None:
    decoder = build(SETTINGS[name])
    compiled = CompiledDecoder(decoder.config.to_dict(), round_to_bf16(decoder), form="bf16")
    assert worst_error(decoder, compiled, band=None) < 3e-6
    assert set(compiled.layouts.values()) == {Layout.BF16}


@pytest.mark.parametrize("name", ROTARY)
def test_a_band_over_several_windows(name: str) -> None:
    decoder = build(SETTINGS[name])
    compiled = CompiledDecoder(decoder.config.to_dict(), round_to_bf16(decoder), form="bf16")
    assert worst_error(decoder, compiled, BAND) < 3e-6
    assert worst_error(decoder, compiled, None) < 3e-6
    assert worst_error(decoder, compiled, 2, steps=5) < 3e-6


def test_positions_count_on_without_loss_of_accuracy() -> None:
    decoder = build(ARCHITECTURES["llama"])
    compiled = CompiledDecoder(decoder.config.to_dict(), round_to_bf16(decoder), form="bf16")
    assert worst_error(decoder, compiled, BAND, steps=700) < 1e-5


@pytest.mark.parametrize("layout", [Layout.DENSE, Layout.BITMASK, Layout.TILES])
@pytest.mark.parametrize("instructions", sorted(available()))
def test_every_layout_with_every_set_of_instructions(layout: Layout, instructions: str) -> None:
    decoder = build(ARCHITECTURES["qwen2"], sparsity=0.8)
    weights = quantise(decoder)
    compiled = CompiledDecoder(decoder.config.to_dict(), weights, layout=layout, instructions=instructions)
    assert (compiled.instructions, set(compiled.layouts.values())) == (instructions, {layout})
    assert compiled.layouts.keys() == matrices(decoder).keys()
    assert worst_error(decoder, compiled, band=None) < 3e-4


@pytest.mark.parametrize("instructions", sorted(available()))
def test_the_layout_suits_zeros_and_instructions(instructions: str) -> None:
    decoder = build(ARCHITECTURES["llama"], sparsity=0.9)
    compiled = CompiledDecoder(decoder.config.to_dict(), quantise(decoder), instructions=instructions)
    assert set(compiled.layouts.values()) == {Layout.DENSE if instructions == "portable" else Layout.TILES}


def run(compiled: CompiledDecoder, tokens: np.ndarray, sizes: list[int], band: int | None = None) -> np.ndarray:
    """Hidden states (pieces, episodes, width) after each of these many tokens (episodes, sum of sizes, width)."""
    state = compiled.start(len(tokens), capacity=sum(sizes), band=band)
    pieces = np.split(tokens, np.cumsum(sizes)[:-1], axis=1)
    return np.stack([compiled.extend(state, piece) for piece in pieces])


def make(name: str = "llama", **options: Any) -> CompiledDecoder:
    decoder = build(ARCHITECTURES[name])
    return CompiledDecoder(decoder.config.to_dict(), quantise(decoder), **options)


def random_tokens(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize(("threads", "band"), [(1, None), (1, BAND), (3, None), (3, BAND)])
def test_episodes_side_by_side_are_those_alone(threads: int, band: int | None) -> None:
    compiled, tokens = make(threads=threads), random_tokens(40, 50, 32)
    sizes = [2, *[3] * 16]
    together = run(compiled, tokens, sizes, band)
    for episode in (0, 13, 39):
        alone = run(compiled, tokens[episode : episode + 1], sizes, band)
        np.testing.assert_allclose(together[:, episode], alone[:, 0], rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("band", [None, BAND, 70])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_long_prefix_is_its_tokens_one_by_one(name: str, band: int | None) -> None:
    if name == "gpt2" and band is not None:
        pytest.skip("its positions end")
    compiled, tokens = make(name), random_tokens(3, 104, 32)
    at_once, one_by_one = run(compiled, tokens, [100, 1, 3], band), run(compiled, tokens, [1] * 104, band)
    np.testing.assert_allclose(at_once, one_by_one[[99, 100, 103]], rtol=1e-4, atol=1e-4)


def test_floats_are_rounded_by_row_and_groups_get_one_scale() -> None:
    decoder = build(ARCHITECTURES["gpt2"])
    config, tokens = decoder.config.to_dict(), random_tokens(1, 6, 32)
    floats = {name: value.numpy().copy() for name, value in decoder.state_dict().items()}
    by_row = quantise(decoder)
    expected = run(CompiledDecoder(config, by_row), tokens, [3, 3])
    np.testing.assert_array_equal(run(CompiledDecoder(config, floats), tokens, [3, 3]), expected)
    # The same integers, their scales repeated for two groups of columns.
    grouped = {name: value if isinstance(value, np.ndarray) else QuantisedMatrix(value.values, value.scales.repeat(2, 1))
               for name, value in by_row.items()}  # fmt: skip
    np.testing.assert_allclose(run(CompiledDecoder(config, grouped), tokens, [3, 3]), expected, rtol=1e-4, atol=1e-4)


def test_states_are_apart_and_results_stay() -> None:
    compiled, tokens = make(), random_tokens(1, 6, 32)
    expected = run(compiled, tokens, [3, 3])
    first, second = compiled.start(1, capacity=6, band=None), compiled.start(1, capacity=6, band=None)
    results = [
        compiled.extend(state, tokens[:, part]) for part in (slice(0, 3), slice(3, 6)) for state in (first, second)
    ]
    np.testing.assert_array_equal(np.stack(results), np.repeat(expected, 2, axis=0))


def test_steps_of_threads_at_the_same_time_write_to_different_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """All caches of a shape share what a step writes to on its way, and no two steps at a time have the same."""
    compiled, tokens = make(), random_tokens(1, 6, 32)
    expected, used, shared = run(compiled, tokens, [3, 3]), [], []

    def watched(network: Any, scratch: Any, *rest: Any) -> None:
        if any(one is scratch[0] for one in used):
            shared.append(True)
        used.append(scratch[0])
        time.sleep(0.002)  # others begin
        run_step(network, scratch, *rest)
        used[:] = [one for one in used if one is not scratch[0]]

    monkeypatch.setattr("edgenetllm.edge.compiled.decoder.run_step", watched)
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: run(compiled, tokens, [3, 3]), range(12)):
            np.testing.assert_array_equal(result, expected)
    assert not shared
    assert sum(len(free) for free in compiled._scratches.values()) <= 4


def test_resident_bytes_count_the_weights() -> None:
    compiled = make("llama")
    weights = 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    assert weights < compiled.resident_bytes < 3 * weights  # rows of 32 columns are padded to 64
    assert isinstance(compiled.start(1, capacity=3, band=None), State)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_smollm2_over_an_episode(smollm2_folder: Path, sparsity: float) -> None:
    settings = yaml.safe_load((ROOT / "conf/model/smollm2.yaml").read_text())
    del settings["_target_"]
    decoder = WheelBackbone(**{**settings, "folder": smollm2_folder, "layers": 4}).load().decoder.eval()
    for view in matrices(decoder).values():  # the smallest weights of each matrix are zero
        view[view.abs() <= view.abs().flatten().quantile(sparsity)] = 0
    compiled = CompiledDecoder(decoder.config.to_dict(), quantise(decoder))
    sparse = sparsity and compiled.instructions == "avx512"
    assert set(compiled.layouts.values()) == {Layout.TILES if sparse else Layout.DENSE}
    assert worst_error(decoder, compiled, band=None) < 3e-3
