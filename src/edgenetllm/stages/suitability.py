"""A small trial of an architecture before anything expensive: is it a causal decoder, also step by step, banded and in parts?

What a policy, its session and the calibration ask of a backbone is tried with random weights on a few tokens, on the first
blocks in their real size, so that an architecture which transformers builds but which does not suit is refused with the
reason, whatever it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from edgenetllm.errors import UserError
from edgenetllm.models.causal import new_cache, own_window, run_cached, run_whole
from edgenetllm.models.decoder import block_matrices, blocks, build_decoder, decoder_config, width
from edgenetllm.pruning.calibration import record_inputs

TOLERANCE = 0.01  # of what another first token changes in the last one
ROUNDING = 3e-6  # of the largest hidden state
BAND = 4  # tokens; what holds for a short band holds for a long one


def check_architecture(settings: dict[str, Any], layers: int | None, banded: Iterable[bool]) -> None:
    """Raises UserError unless the first `layers` blocks of this architecture can be a backbone of these tasks.

    `banded` has for each task whether its decisions look back over a window.
    """
    kind = settings.get("model_type")
    decoder = _build(settings, layers)
    depth = len(blocks(decoder))
    bands = [BAND if windowed else None for windowed in sorted(set(banded))]
    generator = torch.Generator().manual_seed(0)
    length = depth * (BAND - 1) + 5  # beyond the reach of a band through all blocks
    tokens = torch.randn(2, length, width(decoder), generator=generator)
    for band in bands:
        how = "" if band is None else " with a window of tokens, which this task asks for,"
        _try(kind, f"run{how}", _check_causal, decoder, tokens, band)
        _try(kind, f"run step by step{how}", _check_cached, decoder, tokens, band)
    _try(kind, "run block by block", _check_blocks, decoder, tokens, bands[0])
    _try(kind, "be trained", _check_gradient, decoder, tokens, bands[0])


def _build(settings: dict[str, Any], layers: int | None) -> nn.Module:
    """The first blocks, enough of them that each kind is there, ready for inference."""
    config = decoder_config(settings, layers)
    kinds = list(getattr(config, "layer_types", None) or [])
    needed = max((kinds.index(kind) + 1 for kind in set(kinds)), default=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = build_decoder(settings, min(config.num_hidden_layers, max(2, needed)))
        for parameter in block_matrices(decoder).values():  # as large as makes tokens matter to each other
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    return decoder.eval()


def _try(
    kind: str | None, doing: str, check: Callable[[nn.Module, Tensor, int | None], str | None], *given: Any
) -> None:
    """Raises UserError with the reason that `check` gives, or for whatever the architecture's own code raises."""
    try:
        reason = check(*given)
    except Exception as error:  # the code of any architecture, which may raise anything
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"model type {kind} cannot {doing} as a backbone ({type(error).__name__}: {line})") from error
    if reason is not None:
        raise UserError(f"model type {kind} cannot be a backbone: {reason}")


@torch.no_grad()
def _check_causal(decoder: nn.Module, tokens: Tensor, band: int | None) -> str | None:
    """A token sees itself and those before it, in a band only the last ones."""
    whole = run_whole(decoder, tokens, band)
    if whole.shape != tokens.shape:
        return f"it turns tokens {tuple(tokens.shape)} into hidden states {tuple(whole.shape)}"
    limit = _limit(decoder, tokens, band)
    if limit is None:
        return "its tokens do not see, or hardly, those far before them"
    later, first = tokens.clone(), tokens.clone()
    later[:, -1] = -later[:, -1]
    first[:, 0] = -first[:, 0]
    if not _equal(run_whole(decoder, later, band)[:, :-1], whole[:, :-1], limit):
        return "its tokens see those that follow them"
    if band is not None and not _equal(run_whole(decoder, first, band)[:, -1], whole[:, -1], limit):
        return "it cannot be held to a window of tokens, which this task asks for"
    return None


@torch.no_grad()
def _check_cached(decoder: nn.Module, tokens: Tensor, band: int | None) -> str | None:
    """A session computes what the whole sequence gives."""
    cache = new_cache(decoder, band)
    steps = [run_cached(decoder, piece, cache, band) for piece in tokens.split([2, 3, 1, tokens.shape[1] - 6], dim=1)]
    if not _equal(torch.cat(steps, 1), run_whole(decoder, tokens, band), _limit(decoder, tokens, band)):
        return "step by step, with a cache, it computes something else than at once"
    return None


@torch.no_grad()
def _check_blocks(decoder: nn.Module, tokens: Tensor, band: int | None) -> str | None:
    """Blocks run one by one, as calibration does, compute what the decoder does, for other tokens of the same shape too."""
    outputs: list[Tensor] = []
    handle = blocks(decoder)[-1].register_forward_hook(
        lambda _, __, output: outputs.append(output[0] if isinstance(output, tuple) else output)
    )
    changed = tokens.clone()
    changed[:, 0] = -changed[:, 0]
    batches = [{"tokens": tokens}, {"tokens": changed}]
    for batch in batches:
        run_whole(decoder, batch["tokens"], band)
    handle.remove()
    with TemporaryDirectory(prefix="edgenetllm-trial-") as folder:
        inputs = record_inputs(
            decoder,
            batches,
            lambda batch: run_whole(decoder, batch["tokens"], band),
            lambda batch: torch.ones(batch["tokens"].shape[:2], dtype=torch.bool),
            Path(folder),
        )
        for block in blocks(decoder):
            inputs.advance(block)
        states = [inputs.read(number, tokens.device) for number in range(len(inputs))]
    limit = TOLERANCE * float((outputs[0] - outputs[1])[:, 1:].abs().max()) + ROUNDING * float(outputs[0].abs().max())
    if not all(_equal(state, output, limit) for state, output in zip(states, outputs, strict=True)):
        return "its blocks, run one by one, compute something else than the decoder"
    return None


def _check_gradient(decoder: nn.Module, tokens: Tensor, band: int | None) -> str | None:
    decoder.requires_grad_(False)
    inputs = tokens.clone().requires_grad_(True)
    run_whole(decoder, inputs, band).square().sum().backward()
    if inputs.grad is None or not bool(torch.isfinite(inputs.grad).all()) or not bool(inputs.grad.any()):
        return "no gradient goes through it"
    return None


def _limit(decoder: nn.Module, tokens: Tensor, band: int | None) -> float | None:
    """The difference allowed between hidden states that should be equal; None where the first token matters to no other."""
    first = tokens.clone()
    first[:, 0] = -first[:, 0]
    whole = run_whole(decoder, tokens, band)
    reach = min(tokens.shape[1], band or own_window(decoder.config) or tokens.shape[1])  # type: ignore[arg-type]
    effect = float((run_whole(decoder, first, band) - whole)[:, reach - 1].abs().max())
    rounding = ROUNDING * float(whole.abs().max())
    return TOLERANCE * effect + rounding if effect > 10 * rounding else None


def _equal(first: Tensor, second: Tensor, limit: float | None) -> bool:
    if limit is None or first.shape != second.shape or not bool(torch.isfinite(first).all()):
        return False
    return float((first - second).abs().max()) <= limit
