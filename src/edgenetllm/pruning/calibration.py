"""The inputs of the layers of a block: calibration sequences go through the decoder one block at a time.

The hidden states between two blocks lie on disk, and statistics are sums, so that memory holds one block's work whatever
the number of sequences (SparseGPT and Wanda keep all of them in memory).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from edgenetllm.errors import UserError
from edgenetllm.models.decoder import blocks
from edgenetllm.pruning.method import Statistic

if TYPE_CHECKING:
    from edgenetllm.models.decoder import Linear

Call = tuple[tuple[Any, ...], dict[str, Any]]


class _Caught(Exception):
    """Ends a forward pass of which everything needed is recorded; the rest of the decoder need not run."""


class BlockInputs:
    """The hidden states that enter a block, (sequences, tokens, width) per batch, in files under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token_masks: list[Tensor] = []  # (sequences, tokens): False where a token is padding
        self.calls: list[dict[nn.Module, Call]] = []  # per batch, the other arguments of a block; equal ones are shared

    def __len__(self) -> int:
        return len(self.token_masks)

    def read(self, number: int, device: torch.device) -> Tensor:
        return load_file(self.folder / f"{number}.safetensors")["hidden"].to(device)

    def write(self, number: int, hidden: Tensor) -> None:
        save_file({"hidden": hidden.detach().cpu().contiguous()}, self.folder / f"{number}.safetensors")

    def run(self, block: nn.Module, number: int, device: torch.device) -> Tensor:
        """The block's output for a batch; masks and positions depend on the block and on the batch."""
        hidden = self.read(number, device)
        calls = self.calls[number]
        positional, named = tree_map(partial(_to, device=device), calls.get(block) or next(iter(calls.values())))
        output = block(hidden, *positional, **named)
        return output[0] if isinstance(output, tuple) else output

    def advance(self, block: nn.Module) -> None:
        """Replace every batch by the block's output: what enters the next one."""
        device = next(block.parameters()).device
        for number in range(len(self)):
            with torch.no_grad():
                self.write(number, self.run(block, number, device))

    def copy(self, folder: Path) -> BlockInputs:
        """The same states in another folder, to be advanced on their own."""
        other = BlockInputs(folder)
        other.token_masks, other.calls = self.token_masks, self.calls
        for number in range(len(self)):
            other.write(number, self.read(number, torch.device("cpu")))
        return other


@contextmanager
def on_device(block: nn.Module, device: torch.device | None) -> Iterator[None]:
    """While open, the block is on `device` (None: where it is), alone of all blocks; then it goes back."""
    home = next(block.parameters()).device
    block.to(device or home)
    try:
        yield
    finally:
        block.to(home)


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def record_inputs(
    decoder: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    forward: Callable[[Any], object],
    tokens: Callable[[Any], Tensor] | None,
    folder: Path,
) -> BlockInputs:
    """Record the hidden states that enter the first block, and the other arguments of the blocks.

    `forward(batch)` runs the decoder on one batch; `tokens(batch)` is False for padding, (sequences, tokens). Without
    `tokens`, padding is what the `attention_mask` (sequences, tokens) says that the decoder is given; without that there is
    none. Raises UserError for no batch at all, for values that are not finite, for a forward pass that does not run the
    decoder, and for a mask of another shape.
    """
    # Hooks note what enters the first block, and the arguments of each kind of block.
    inputs = BlockInputs(folder)
    every = list(blocks(decoder))
    called = every if _blocks_differ(decoder) else every[:1]
    padding: list[Tensor | None] = [None]
    calls: dict[nn.Module, Call] = {}

    def note_mask(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        padding[0] = _attention_mask(decoder, args, kwargs)

    def note(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        if block is every[0]:
            hidden = args[0] if args else kwargs["hidden_states"]
            inputs.write(len(inputs), hidden)
            inputs.token_masks.append(torch.ones(hidden.shape[:-1], dtype=torch.bool))
            if not bool(torch.isfinite(hidden).all()):
                raise UserError("pruning.calibration: the calibration data holds values that are not finite")
        calls[block] = (tuple(map(_uncached, args[1:])), {name: _uncached(value) for name, value in named.items()})
        if len(calls) == len(called):
            raise _Caught

    # Run the batches as far as the hooks need.
    handles = [block.register_forward_pre_hook(note, with_kwargs=True) for block in called]
    handles.append(decoder.register_forward_pre_hook(note_mask, with_kwargs=True))
    try:
        for number, batch in enumerate(batches):
            with torch.no_grad(), suppress(_Caught):
                forward(batch)
            if len(inputs) != number + 1:
                raise UserError("calibration_step(batch) has to run the decoder: it never reached the first block")
            inputs.calls.append(next((known for known in inputs.calls if _equal(known, calls)), dict(calls)))
            calls.clear()
            given = padding[0] if tokens is None else tokens(batch)
            if given is not None:
                inputs.token_masks[number] = _of_shape(given, inputs.token_masks[number].shape)
    finally:
        for handle in handles:
            handle.remove()
    if not inputs.token_masks or not any(bool(mask.any()) for mask in inputs.token_masks):
        raise UserError("pruning.windows: the calibration data is empty; give at least one window")
    return inputs


def _attention_mask(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The mask of padding that a decoder is called with, (sequences, tokens); None for none, or for one of pairs."""
    arguments = inspect.signature(decoder.forward).bind_partial(*args, **kwargs).arguments
    mask = {**arguments, **arguments.get("kwargs", {})}.get("attention_mask")
    return mask if isinstance(mask, Tensor) and mask.ndim == 2 else None


def _of_shape(mask: Tensor, shape: torch.Size) -> Tensor:
    if mask.shape != shape:
        raise UserError(
            f"the mask of the calibration tokens is {tuple(mask.shape)}, the hidden states are {tuple(shape)} "
            "(sequences, tokens)"
        )
    return mask.detach().cpu().bool()


def _uncached(value: Any) -> Any:
    """An argument of a block without a cache, which would grow each time that the block is run."""
    from transformers import Cache

    return None if isinstance(value, Cache) else value


def _equal(one: Any, other: Any) -> bool:
    """True where two structures hold the same values; the same tensor, or one with the same bits."""
    leaves, structure = tree_flatten(one)
    others, shape = tree_flatten(other)
    return structure == shape and all(map(_same, leaves, others))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other))
    return bool(one is other or (type(one) is type(other) and not isinstance(one, Tensor) and one == other))


def _blocks_differ(decoder: nn.Module) -> bool:
    """True where some blocks get other masks or positions than the first one, such as a sliding window (Gemma 2)."""
    config: Any = decoder.config
    return len(set(getattr(config, "layer_types", None) or [])) > 1


@dataclass
class LayerInputs:
    """The inputs of a layer: a statistic, (in,) or (in, in), if asked for, and `sample` (tokens, in), some of its inputs."""

    statistic: Tensor | None = None
    samples: list[Tensor] = field(default_factory=list)

    @property
    def sample(self) -> Tensor:
        return torch.cat(self.samples)


@torch.no_grad()
def watch(
    block: nn.Module,
    layers: Mapping[str, Linear],
    inputs: BlockInputs,
    statistic: Statistic | None,
    sample: int = 512,
) -> dict[str, LayerInputs]:
    """Run every batch through the block and sum up what its `layers` see; `sample` tokens of each are kept.

    Raises UserError when an activation is not finite and when no token reaches a layer (an expert, say).
    """
    seen = {name: LayerInputs() for name in layers}
    device = next(block.parameters()).device
    with _hooks(layers, seen, statistic, -(-sample // len(inputs))) as mask:
        for number in range(len(inputs)):
            mask[0] = inputs.token_masks[number].to(device)
            if bool(mask[0].any()):
                inputs.run(block, number, device)
    for name, layer in seen.items():
        if not any(len(sample) for sample in layer.samples):
            raise UserError(f"pruning.windows: no token of the calibration data reaches {name}; give more windows")
        if layer.statistic is not None and not bool(torch.isfinite(layer.statistic).all()):
            raise UserError(f"pruning.calibration: the activations that enter {name} are not finite")
    return seen


@contextmanager
def _hooks(
    layers: Mapping[str, Linear], seen: dict[str, LayerInputs], statistic: Statistic | None, sample: int
) -> Iterator[list[Tensor]]:
    """While open, what the layers see is added to `seen`; the tokens that count are in the list that is given."""
    mask: list[Tensor] = [torch.empty(0)]
    last: dict[str, tuple[Tensor, Tensor]] = {}  # layers that share an input (q, k and v) share its statistic

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def add(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            tokens = args[0].detach().flatten(0, -2)[mask[0].flatten()].float()  # (tokens, in); OPT's come flat already
            step = max(1, len(tokens) // sample)
            seen[name].samples.append(tokens[::step][:sample].clone())
            if statistic is None:
                return
            if "input" not in last or last["input"][0] is not args[0]:
                last["input"] = (args[0], _sum(tokens, statistic))
            addend = last["input"][1]
            total = seen[name].statistic
            seen[name].statistic = addend.clone() if total is None else total.add_(addend)

        return add

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield mask
    finally:
        for handle in handles:
            handle.remove()


def _sum(tokens: Tensor, statistic: Statistic) -> Tensor:
    return tokens.square().sum(0) if statistic == "sum_of_squares" else tokens.T @ tokens
