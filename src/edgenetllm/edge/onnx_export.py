"""The decoder's step as an ONNX file: new tokens, their positions, a mask and the cache go in, hidden state and cache out.

Inputs, all axes but the widths dynamic:

- `tokens` (episodes, new, width) float32, `positions` (episodes, new) int64, counted from the start of the episode
- `mask` (1, 1, new, slots + new) bool, True where a token sees a slot of the cache, or a new token
- `keys.i`, `values.i` (episodes, heads, slots, size) float32 for each block i: the cache, in any order

Outputs: `hidden` (episodes, width), of the last token after the final norm, and `new_keys.i`, `new_values.i`
(episodes, heads, new, size), which the caller writes into free slots of its cache.

Who keeps the cache chooses `slots`, and does best never to change it. Needs the extra `onnx`.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import DynamicLayer
from transformers.pytorch_utils import Conv1D

from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder
from edgenetllm.models.causal import own_window
from edgenetllm.models.decoder import prunable_layers, width
from edgenetllm.models.policy import PolicyNetwork

ONNX_FILE = "decoder.onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
ARCHITECTURES = ("llama", "mistral", "qwen2", "gpt2", "opt")  # that are tested


def require_onnx() -> None:
    """Raises UserError where the packages of the extra `onnx` are not installed."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"ONNX needs {' and '.join(missing)}: pip install 'edgenetllm[onnx]'")


def check_policy(policy: PolicyNetwork) -> None:
    """Raises UserError for an architecture whose export is not tested, for an adapter that is not merged, and for blocks
    that see fewer tokens than a task needs."""
    config: Any = policy.decoder.config
    if config.model_type not in ARCHITECTURES:
        raise UserError(f"model type {config.model_type} is not exported to ONNX (only {', '.join(ARCHITECTURES)} are)")
    if any("lora_" in name for name, _ in policy.decoder.named_parameters()):
        raise UserError("a decoder whose adapter stays apart (pruning.lora=prune_base_keep_adapter) is not exported")
    reach = own_window(config)
    for name in policy.tasks:
        if reach is not None and (needed := policy.networks(name).sight) > reach:
            raise UserError(f"task={name} looks back over {needed} tokens, some blocks over {reach} (sliding_window)")


def export_onnx(policy: PolicyNetwork, folder: Path) -> dict[str, Any]:
    """Write the decoder of a policy to `folder` as `decoder.onnx`, whole or not at all; returns its sizes.

    The names of the tasks and their bands (how many tokens a token sees, itself included) stand in the file's metadata.
    Raises UserError without the extra `onnx` and for an architecture that is not exported.
    """
    require_onnx()
    check_policy(policy)
    with atomic_folder(folder, overwrite=True) as made:
        write_decoder(policy.decoder, made / ONNX_FILE, {f"band.{name}": str(policy.networks(name).band or "none")
                                                         for name in policy.tasks})  # fmt: skip
        return {"bytes": sum(path.stat().st_size for path in made.iterdir())}


@torch.no_grad()
def write_decoder(decoder: nn.Module, file: Path, metadata: dict[str, str]) -> None:
    """Write the step of a decoder to a file; weights of more than 2 GB lie in a second one."""
    config: Any = decoder.config
    heads = int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    # Examples of the inputs: no two axes have the same length.
    episodes, new, slots, blocks = 2, 3, 5, int(config.num_hidden_layers)
    cache = [[torch.zeros(episodes, heads, slots, size) for _ in range(2)] for _ in range(blocks)]
    inputs = (
        torch.zeros(episodes, new, width(decoder)),
        torch.arange(slots, slots + new).repeat(episodes, 1),
        torch.ones(1, 1, new, slots + new, dtype=torch.bool).tril(slots),
        cache,
    )
    # Their dynamic axes, and all names.
    some = torch.export.Dim.DYNAMIC
    axes = ({0: some, 1: some}, {0: some, 1: some}, {2: some, 3: some}, [[{0: some, 2: some}] * 2 for _ in cache])
    pairs = [f"{name}.{block}" for block in range(blocks) for name in ("keys", "values")]
    with _quiet():
        program = torch.onnx.export(
            _Step(_of_products(decoder)).eval(),
            inputs,
            dynamic_shapes=axes,
            input_names=["tokens", "positions", "mask", *pairs],
            output_names=["hidden", *(f"new_{name}" for name in pairs)],
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(file)


class _Slots(DynamicLayer):
    """A block's cache of given keys and values (episodes, heads, slots, size), which keeps apart what is added."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.old = (keys, values)

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.new = (key_states, value_states)
        keys, values = (torch.cat(pair, dim=2) for pair in zip(self.old, self.new, strict=True))
        return keys, values

    def get_seq_length(self) -> int:
        return self.old[0].shape[2]


class _Step(nn.Module):
    """The decoder as a function of tensors alone."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: list[list[Tensor]]) -> tuple[Tensor, ...]:
        layers = [_Slots(keys, values) for keys, values in cache]
        output = self.decoder(
            inputs_embeds=tokens,
            attention_mask=mask,
            position_ids=positions,
            cache=Cache(layers=list(layers)),
            use_cache=True,
        )
        return output.last_hidden_state[:, -1], *(tensor for layer in layers for tensor in layer.new)


class _Product(nn.Module):
    """A linear layer whose weight lies as (in, out), so that it becomes a MatMul with a constant, which can be quantised."""

    def __init__(self, layer: nn.Linear | Conv1D) -> None:
        super().__init__()
        weight = layer.weight.detach() if isinstance(layer, Conv1D) else layer.weight.detach().T.contiguous()
        self.weight, self.bias = nn.Parameter(weight, requires_grad=False), layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        output = inputs @ self.weight
        return output if self.bias is None else output + self.bias


def _of_products(decoder: nn.Module) -> nn.Module:
    """The same decoder, which shares its tensors, with linear layers as products."""
    changed = copy.deepcopy(decoder, {id(tensor): tensor for tensor in (*decoder.parameters(), *decoder.buffers())})
    for name, layer in prunable_layers(changed).items():
        changed.set_submodule(name, _Product(layer))
    return changed


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings on packages that the export does not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
