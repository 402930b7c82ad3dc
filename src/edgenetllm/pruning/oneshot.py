"""Zero the backbone's matrices once, block by block."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

import torch
import transformers
from torch import Tensor, nn

from edgenetllm.errors import UserError
from edgenetllm.models.decoder import (
    block_matrices,
    blocks,
    describe_others,
    other_matrices,
    prunable_layers,
    weight_out_in,
)
from edgenetllm.progress import tqdm
from edgenetllm.pruning import allocation, magnitude, wanda
from edgenetllm.pruning.calibration import BlockInputs, LayerInputs, on_device, record_inputs, watch
from edgenetllm.pruning.masks import zeros_wanted
from edgenetllm.pruning.options import Pruning

if TYPE_CHECKING:
    from edgenetllm.models.decoder import Linear


class Prunable(Protocol):
    """A module with a decoder that can be pruned, such as a Policy, or anybody's LightningModule.

    It may also have `calibration_mask(batch)`, (sequences, tokens), False for padding (without it the decoder's own
    `attention_mask` counts); `calibration_loss(batch)`, which `pruning.allocation=sensitivity` measures; and `outside()`,
    encoder and head by name, for `pruning.also`.
    """

    @property
    def decoder(self) -> nn.Module:
        """A transformers decoder: the module that holds the blocks, or a language model around it."""
        ...

    def calibration_step(self, batch: Any) -> object:
        """Run the decoder once on a batch."""
        ...


@dataclass(frozen=True)
class LayerReport:
    """`error` is ‖X(W' − W)ᵀ‖² / ‖XWᵀ‖² and `cosine` the mean cosine of a token's outputs, over a sample of what the layer
    sees when all blocks before it are pruned; None where the layer was not pruned or saw nothing."""

    name: str
    zeros: int
    weights: int
    error: float | None = None
    cosine: float | None = None

    @property
    def sparsity(self) -> float:
        return self.zeros / self.weights


@torch.no_grad()
def prune_module(
    module: Prunable,
    pruning: Pruning,
    sparsity: float,
    batches: Sequence[Any],
    *,
    text: Tensor | None = None,
    seed: int = 0,
    progress: bool = True,
    device: torch.device | None = None,
) -> list[LayerReport]:
    """Prune the module's decoder in place to exactly `sparsity` of all its matrices; everything else stays dense.

    `batches` are what `calibration_step` takes; with `text` (sequences, tokens, width) the layers see that instead. Each
    block is pruned on what the pruned blocks before it give. Encoder and head are pruned by magnitude if `pruning.also`
    names them. With `device`, one block after the other is computed and pruned there and brought back, so that it needs the
    memory of one block, its statistics and the hidden states of one batch, however deep the model is.
    At sparsity 0 no bit changes. Raises UserError, before any weight is touched, as `check_prunable` does, and for
    calibration data that is empty or not finite. With force and an N:M structure, zeros beyond what a group needs stay and
    exceed the count.
    """
    # Check everything before any weight is touched.
    check_prunable(module, pruning, sparsity)
    decoder = decoder_of(module)
    layers = prunable_layers(decoder)
    if sparsity == 0:
        return zero_counts(layers)
    # Calibrate and distribute the zeros over the layers.
    reports: list[LayerReport] = []
    with TemporaryDirectory(prefix="edgenetllm-calibration-") as folder:
        inputs = _record(module, decoder, batches, text, Path(folder) / "states")
        counts = _allocate(
            module, decoder, pruning, sparsity, batches, inputs, Path(folder) / "dense", progress, device
        )
        # Prune block by block, each on what the pruned blocks before it give.
        every = blocks(decoder)
        for number, block in enumerate(
            tqdm(every, desc=f"pruning ({pruning.label})", unit="block", disable=not progress)
        ):
            inside = _inside(block, layers)
            with on_device(block, device):
                seen = watch(block, inside, inputs, pruning.method.statistic)
                for name, layer in inside.items():
                    reports.append(_prune_layer(name, layer, pruning, counts[name], seen.pop(name), seed))
                if number + 1 < len(every):
                    inputs.advance(block)
    # Encoder and head, where they are asked for.
    for network in pruning.also:
        for name, outside in _outside(module).items():
            if name.endswith(network):
                reports += _prune_network(name, outside, sparsity)
    return reports


def check_prunable(module: Prunable, pruning: Pruning, sparsity: float) -> None:
    """Raises UserError where `prune_module` cannot do what is asked for: before a fit, say.

    That is where the decoder is sparse already (unless `pruning.force` goes further), where some block weights are in no
    linear layer or are not floating point, where the structure does not fit, and where the module lacks what an option
    needs.
    """
    if not 0 <= sparsity <= 1:
        raise UserError(f"sparsity={sparsity}: give a share from 0 to 1")
    decoder = decoder_of(module)
    layers = prunable_layers(decoder)
    if pruning.allocation == "sensitivity" and not hasattr(module, "calibration_loss"):
        raise UserError(
            f"pruning.allocation=sensitivity: {type(module).__name__} has no calibration_loss(batch) that it could measure"
        )
    if pruning.also and not hasattr(module, "outside"):
        raise UserError(f"pruning.also: {type(module).__name__} has no outside() that names encoder and head")
    check_all_reached(decoder, sparsity)
    for name, layer in layers.items():
        if not layer.weight.is_floating_point():
            raise UserError(f"{name} holds {layer.weight.dtype}: a quantised backbone cannot be pruned")
    check_structure({name: tuple(weight_out_in(layer).shape) for name, layer in layers.items()}, pruning, sparsity)
    if sparsity > 0:
        _check_fresh(layers, pruning, sparsity)


def decoder_of(module: Prunable) -> nn.Module:
    """The module that holds the blocks: `module.decoder`, or what a language model or peft has wrapped around it.

    Raises UserError for a module without a `decoder` or without `calibration_step`, and for a decoder that is no module.
    """
    for name in ("decoder", "calibration_step"):
        if not hasattr(module, name):
            raise UserError(
                f"{type(module).__name__} has no {name}: pruning needs `decoder` and `calibration_step(batch)`"
            )
    if not isinstance(module.decoder, nn.Module):
        raise UserError(f"{type(module).__name__}.decoder is a {type(module.decoder).__name__}, not a torch module")
    decoder: Any = module.decoder
    if hasattr(decoder, "get_base_model"):  # peft's
        decoder = decoder.get_base_model()
    inner: nn.Module = decoder.get_decoder() if isinstance(decoder, transformers.PreTrainedModel) else decoder
    return inner


def _prune_layer(name: str, layer: Linear, pruning: Pruning, zeros: int, seen: LayerInputs, seed: int) -> LayerReport:
    weight = weight_out_in(layer)
    own_seed = zlib.crc32(f"{seed} {name}".encode())  # layers of one shape must not share a random mask
    pruned = pruning.method.prune(weight, seen.statistic, zeros / weight.numel(), pruning.pattern, own_seed)
    before, after = seen.sample @ weight.float().T, seen.sample @ pruned.float().T
    error = float((after - before).square().sum() / before.square().sum().clamp(min=1e-30))
    cosine = float(nn.functional.cosine_similarity(before, after, dim=1).mean())
    weight.copy_(pruned)
    return LayerReport(name, int((weight == 0).sum()), weight.numel(), error, cosine)


def _prune_network(network: str, module: nn.Module, sparsity: float) -> list[LayerReport]:
    """Encoder or head, each matrix by magnitude: they see raw observations, whose scale says nothing of importance."""
    reports = []
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data.copy_(magnitude.prune(layer.weight.data, sparsity))
            reports.append(LayerReport(f"{network}.{name}", int((layer.weight == 0).sum()), layer.weight.numel()))
    return reports


def _outside(module: Any) -> Mapping[str, nn.Module]:
    outside: Mapping[str, nn.Module] = module.outside()
    return outside


def _record(
    module: Prunable, decoder: nn.Module, batches: Sequence[Any], text: Tensor | None, folder: Path
) -> BlockInputs:
    folder.mkdir()
    if text is None:
        return record_inputs(
            decoder, batches, module.calibration_step, getattr(module, "calibration_mask", None), folder
        )
    device = getattr(module, "device", None) or next(decoder.parameters()).device

    def forward(batch: Mapping[str, Tensor]) -> object:
        return decoder(inputs_embeds=batch["embeddings"].to(device), use_cache=False)

    return record_inputs(decoder, [{"embeddings": sequences} for sequences in text.split(16)], forward, None, folder)


def _allocate(
    module: Prunable,
    decoder: nn.Module,
    pruning: Pruning,
    sparsity: float,
    batches: Sequence[Any],
    inputs: BlockInputs,
    folder: Path,
    progress: bool,
    device: torch.device | None,
) -> dict[str, int]:
    """Zeros per layer. OWL and sensitivity give all matrices of a block the same fraction."""
    # Without a look at data: the same fraction everywhere, or by one threshold.
    layers = prunable_layers(decoder)
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    zeros = {name: int((layer.weight == 0).sum()) for name, layer in layers.items()}
    if pruning.allocation == "uniform":
        return allocation.counts_of(dict.fromkeys(layers, sparsity), sizes, sparsity, zeros)
    if pruning.allocation == "global":
        global_zeros = magnitude.global_counts({n: weight_out_in(layer) for n, layer in layers.items()}, sparsity)
        return allocation.counts_of({n: global_zeros[n] / sizes[n] for n in layers}, sizes, sparsity, zeros)
    # Else one pass through the dense blocks: how much does each of them matter?
    every = [_inside(block, layers) for block in blocks(decoder)]
    importance = []
    folder.mkdir()
    states = inputs.copy(folder)
    if pruning.allocation == "sensitivity" and not batches:
        raise UserError("pruning.allocation=sensitivity measures the task's loss: it needs windows of the pool")
    dense_loss = _loss(module, batches) if pruning.allocation == "sensitivity" else 0.0
    for block, inside in tqdm(
        list(zip(blocks(decoder), every, strict=True)),
        desc=f"allocation ({pruning.allocation})",
        disable=not progress,
    ):
        with on_device(block, device):
            seen = watch(block, inside, states, "sum_of_squares")
            states.advance(block)
        squares = {name: seen[name].statistic for name in inside}
        if pruning.allocation == "owl":
            ratios = [
                allocation.outlier_ratio(w, s.to(w.device))
                for w, s in ((weight_out_in(inside[name]), square) for name, square in squares.items())
                if s is not None
            ]
            importance.append(sum(ratios) / len(ratios))
        else:
            importance.append(_loss_without(module, batches, inside, squares, sparsity) - dense_loss)
    # Shares by importance, whose mean is the sparsity.
    fractions = allocation.spread(importance, sparsity, pruning.spread)
    of_layer = {name: fraction for fraction, inside in zip(fractions, every, strict=True) for name in inside}
    return allocation.counts_of(of_layer, sizes, sparsity, zeros)


def _loss_without(
    module: Prunable,
    batches: Sequence[Any],
    inside: Mapping[str, Linear],
    squares: Mapping[str, Tensor | None],
    sparsity: float,
) -> float:
    """The task's loss with this block alone pruned (by Wanda); its weights are put back."""
    saved = {name: layer.weight.data.clone() for name, layer in inside.items()}
    try:
        for name, layer in inside.items():
            weight, statistic = weight_out_in(layer), squares[name]
            assert statistic is not None
            weight.copy_(wanda.prune(weight, statistic.to(weight.device), sparsity))
        return _loss(module, batches)
    finally:
        for name, layer in inside.items():
            layer.weight.data.copy_(saved[name])


def _loss(module: Any, batches: Sequence[Any]) -> float:
    losses = [float(module.calibration_loss(batch)) for batch in batches]
    return sum(losses) / len(losses)


def _inside(block: nn.Module, layers: Mapping[str, Linear]) -> dict[str, Linear]:
    modules = set(block.modules())
    return {name: layer for name, layer in layers.items() if layer in modules}


def zero_counts(layers: Mapping[str, Linear]) -> list[LayerReport]:
    return [LayerReport(name, int((layer.weight == 0).sum()), layer.weight.numel()) for name, layer in layers.items()]


def check_all_reached(decoder: nn.Module, sparsity: float) -> None:
    """Raises UserError where weights of the blocks, such as fused experts, are in no layer that can be pruned."""
    others = other_matrices(decoder)
    if sparsity == 0 or not others:
        return
    total = sum(value.numel() for value in block_matrices(decoder).values())
    raise UserError(
        f"sparsity={sparsity:g}: {describe_others(others, total)}; pruning would leave them dense. Type sparsity=0, or "
        "choose a model whose blocks have linear layers alone (such as llama, qwen2 or mistral)"
    )


def check_structure(shapes: Mapping[str, tuple[int, ...]], pruning: Pruning, sparsity: float) -> None:
    """Raises UserError when an N:M structure does not fit the sparsity or the (out, in) `shapes` of the layers."""
    pattern = pruning.pattern
    if pattern is None or sparsity == 0:
        return
    if abs(sparsity - pattern.sparsity) > 1e-4:
        raise UserError(
            f"pruning.structure={pattern} keeps {pattern.kept} of {pattern.group}: type sparsity={pattern.sparsity:g}"
        )
    block = getattr(pruning.method, "block", pattern.group)
    if block % pattern.group:
        raise UserError(
            f"pruning.method.block={block} cannot be divided into the groups of pruning.structure={pattern}"
        )
    if pruning.allocation != "uniform":
        raise UserError(
            f"pruning.structure={pattern} gives every layer the same sparsity: type pruning.allocation=uniform"
        )
    for name, (_, inputs) in shapes.items():
        if inputs % pattern.group:
            raise UserError(
                f"pruning.structure={pattern}: the {inputs} inputs of {name} cannot be divided by {pattern.group}"
            )


def _check_fresh(layers: Mapping[str, Linear], pruning: Pruning, sparsity: float) -> None:
    rows = zero_counts(layers)
    zeros, weights = sum(row.zeros for row in rows), sum(row.weights for row in rows)
    if zeros > 0.01 * weights and not pruning.force:
        raise UserError(
            f"this backbone is pruned already ({zeros / weights:.1%} zeros): prune the adaptation that it came from, or go "
            "further with pruning.force=true"
        )
    if zeros > zeros_wanted(sparsity, weights):
        raise UserError(
            f"sparsity={sparsity:g}: this backbone has {zeros / weights:.1%} zeros; pruning never goes back"
        )


def assert_zeros(policy: nn.Module, layers: Mapping[str, int]) -> None:
    """Raises UserError unless every matrix has the zeros that it was pruned to: name in the policy -> count."""
    tensors = dict(policy.named_parameters())
    for name, expected in layers.items():
        if f"{name}.weight" not in tensors:
            raise UserError(f"{name} was pruned, say the results of the run, and this model has no such matrix")
        zeros = int((tensors[f"{name}.weight"] == 0).sum())
        if zeros < expected:
            raise UserError(f"{name} has {zeros} zeros, not the {expected} that it was pruned to")
