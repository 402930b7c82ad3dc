"""A cache goes back to where it was before tokens that came to nothing, whatever these left behind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small import ARCHITECTURES

from edgenetllm.edge.compiled import decoder as module
from edgenetllm.edge.compiled.decoder import CompiledDecoder, State
from edgenetllm.models.decoder import build_decoder

BAND = 20
STEPS = 60


@pytest.fixture(scope="module")
def compiled() -> CompiledDecoder:
    torch.manual_seed(0)
    decoder = build_decoder(ARCHITECTURES["llama"])
    weights = {name: value.numpy().copy() for name, value in decoder.state_dict().items()}
    return CompiledDecoder(decoder.config.to_dict(), {n: w * (5 if w.ndim > 1 else 1) for n, w in weights.items()})


def tokens_of(compiled: CompiledDecoder, seed: int, count: int = 3) -> Any:
    return np.random.default_rng(seed).standard_normal((2, count, compiled.width)).astype(np.float32)


def play(compiled: CompiledDecoder, band: int | None, between: Any = None) -> np.ndarray:
    """Hidden states of STEPS steps of two episodes; `between(state, step)` is called before each."""
    state, hidden = compiled.start(2, capacity=3 * STEPS + 30, band=band), []
    for step in range(STEPS):
        if between is not None:
            between(state, step)
        hidden.append(compiled.extend(state, tokens_of(compiled, step)))
    return np.stack(hidden)


@pytest.mark.parametrize("band", [None, BAND])
def test_tokens_that_are_taken_back_leave_no_trace(compiled, band):
    def between(state: State, step: int) -> None:
        position = state.position
        compiled.extend(state, tokens_of(compiled, 1000 + step, count=1 + step % 9))
        assert compiled.rewind(state, position)

    np.testing.assert_allclose(play(compiled, band, between), play(compiled, band), atol=1e-5)


@pytest.mark.parametrize("band", [None, BAND])
def test_nan_that_was_written_is_never_read(compiled, band, monkeypatch):
    def between(state: State, step: int) -> None:
        position = state.position
        with monkeypatch.context() as patch:
            patch.setattr(compiled, "_check_tokens", lambda *given: None)
            assert np.isnan(compiled.extend(state, np.full((2, 5, compiled.width), np.nan, np.float32))).all()
        assert compiled.rewind(state, position)

    np.testing.assert_allclose(play(compiled, band, between), play(compiled, band), atol=1e-5)


@pytest.mark.parametrize("band", [None, BAND])
def test_a_step_that_raises_halfway_is_taken_back(compiled, band, monkeypatch):
    calls: list[int] = []

    def fails(*given: Any) -> None:
        run_step(*given)
        calls.append(len(calls))
        if len(calls) % 2 == 0:
            raise RuntimeError("in the second part")

    def between(state: State, step: int) -> None:
        position = state.position
        tokens = tokens_of(compiled, 1000 + step, count=24)
        with monkeypatch.context() as patch:
            patch.setattr(module, "run_step", fails)
            with pytest.raises(RuntimeError):
                compiled.extend(state, tokens)
        assert state.position == position
        assert compiled.rewind(state, position)

    run_step = module.run_step
    np.testing.assert_allclose(play(compiled, band, between), play(compiled, band), atol=1e-5)
    assert len(calls) == 2 * STEPS


def test_more_tokens_than_a_band_has_room_for_cannot_be_taken_back(compiled):
    state = compiled.start(2, capacity=1, band=BAND)
    compiled.extend(state, tokens_of(compiled, 0))
    compiled.extend(state, tokens_of(compiled, 1, count=200))
    assert not compiled.rewind(state, 3)
    assert state.position == 203
    compiled.extend(state, tokens_of(compiled, 2))
    assert compiled.rewind(state, 203)
    assert not compiled.rewind(state, 204)  # that is ahead
    assert not compiled.rewind(state, -1)
