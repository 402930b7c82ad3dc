"""Engine `onnx`: onnxruntime on the exported step, in float32 or with int8 or int4 weights (activations stay float32)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import nn

from edgenetllm.affects import Affects
from edgenetllm.edge.engine import load_policy
from edgenetllm.edge.engines.engine import Engine, Name
from edgenetllm.edge.engines.session import DecoderSession, Floats
from edgenetllm.errors import UserError
from edgenetllm.models.decoder import build_decoder, prunable_layers
from edgenetllm.models.policy import PolicyNetwork, build_policy
from edgenetllm.option_types import Processes
from edgenetllm.tasks.task import Task

Weights = Literal["fp32", "int8", "int4"]
BITS = {"int8": 8, "int4": 4}
FREE = -1  # the position of a slot that holds no token


@plain_dataclass
class Slots:
    """The cache of episodes side by side, used as a ring: the token of position p lies in slot p modulo their number."""

    cache: dict[str, Floats]  # keys.0, values.0, keys.1, ...: (episodes, heads, slots, size)
    position: npt.NDArray[np.int64]  # (slots,) of the token in each slot, or FREE
    next: int  # position of the token that comes next
    band: int | None


class OnnxDecoder:
    """A decoder's exported step in onnxruntime; `weights` are those of the matrices, in blocks of `block` inputs a scale."""

    def __init__(self, decoder: nn.Module, weights: Weights = "fp32", threads: int = 1, block: int = 32) -> None:
        import onnxruntime

        from edgenetllm.edge.onnx_export import ONNX_FILE, write_decoder  # imports transformers: where it is used

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        with TemporaryDirectory(prefix="edgenetllm-onnx-") as folder:
            file = Path(folder) / ONNX_FILE
            write_decoder(decoder, file, {})
            if weights != "fp32":
                quantise(file, BITS[weights], block, len(prunable_layers(decoder)))
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.shapes = {one.name: one.shape for one in self.session.get_inputs() if one.name[0] in "kv"}

    def start(self, episodes: int, *, capacity: int, band: int | None) -> Slots:
        slots = capacity if band is None else max(band - 1, 1)
        cache = {name: np.zeros((episodes, heads, slots, size), np.float32)
                 for name, (_, heads, _, size) in self.shapes.items()}  # fmt: skip
        return Slots(cache, np.full(slots, FREE, np.int64), 0, band)

    def extend(self, state: Slots, tokens: Floats) -> Floats:
        """Append tokens (episodes, n, width). Raises UserError beyond the capacity of an episode that has an end."""
        episodes, new, _ = tokens.shape
        slots = len(state.position)
        if state.band is None and state.next + new > slots:
            raise UserError(f"engine=onnx: token {state.next + new} of an episode with room for {slots}")
        # Run the step.
        positions = np.arange(state.next, state.next + new)
        mask = visible(state.position, positions, state.band)[None, None]
        inputs = {"tokens": tokens, "positions": np.tile(positions, (episodes, 1)), "mask": mask, **state.cache}
        hidden, *added = self.session.run(None, inputs)
        # Keep the keys and values of the new tokens, of no more than there are slots.
        kept = min(new, slots)
        at = positions[-kept:] % slots
        for name, values in zip(state.cache, added, strict=True):
            state.cache[name][:, :, at] = values[:, :, -kept:]
        state.position[at] = positions[-kept:]
        state.next += new
        return hidden


def visible(slots: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], band: int | None) -> npt.NDArray[np.bool_]:
    """True where new tokens of `positions` see what the slots hold, and each other: (new, slots + new)."""
    query, key = positions[:, None], np.concatenate([slots, positions])
    seen = (key != FREE) & (key <= query)
    return seen if band is None else seen & (key > query - band)


def quantise(file: Path, bits: int, block: int, matrices: int) -> None:
    """Store the weights of the `matrices` products in an ONNX file as integers; the activations stay float32.

    Raises UserError where not every one of them can be.
    """
    import onnx

    placeholder = logging.NullHandler()  # the import would configure the root logger if it had no handler
    logging.root.addHandler(placeholder)
    from onnxruntime.quantization import matmul_nbits_quantizer as quantizers

    logging.root.removeHandler(placeholder)
    quantizers.logger.setLevel(logging.WARNING)  # it has a line for every node
    quantizer = quantizers.MatMulNBitsQuantizer(
        onnx.load(file), bits=bits, block_size=block, is_symmetric=True, accuracy_level=1
    )
    quantizer.process()
    model = quantizer.model.model
    quantised = sum(node.op_type == "MatMulNBits" for node in model.graph.node)
    if quantised < matrices:  # there may be more: OPT-350M projects what enters and leaves its blocks
        raise UserError(f"engine=onnx: {quantised} of {matrices} matrices could be stored in int{bits}; use fp32")
    onnx.save(model, file)


@dataclass(config=ConfigDict(extra="forbid"), kw_only=True)
class OnnxEngine(Engine):
    """Llama, Mistral, Qwen2, GPT-2 and OPT in onnxruntime, on the CPU; encoder and head run in torch."""

    name: Name = "onnx"
    weights: Weights = "fp32"  # of the matrices
    block: Literal[16, 32, 64, 128] = 32  # inputs that share a scale, with int8 and int4
    threads: Annotated[Processes, Affects("nothing")] = 1

    @property
    def label(self) -> str:
        return self.name if self.weights == "fp32" else f"{self.name} {self.weights}"

    def check(self, model: Mapping[str, Any], tasks: Mapping[str, Task], adapter: bool = False) -> None:
        from edgenetllm.edge.onnx_export import require_onnx

        require_onnx()
        if adapter:
            raise UserError(
                "engine=onnx runs no adapter apart from the matrices: type pruning.lora=merge_then_prune, or engine=torch"
            )
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            policy = build_policy(build_decoder(dict(model)), tasks, embedding_rms=1.0)
        self._check(policy)

    def facts(self) -> dict[str, Any]:
        return {"onnxruntime": metadata.version("onnxruntime"), "onnxscript": metadata.version("onnxscript")}

    def load(self, bundle: Path, task: Task, sample_seed: int | None = None) -> DecoderSession:
        from edgenetllm.edge.onnx_export import require_onnx

        require_onnx()
        policy, target_return = load_policy(bundle, task)
        self._check(policy)
        decoder = OnnxDecoder(policy.decoder, self.weights, self.threads, self.block)
        return DecoderSession(policy, target_return, decoder, f"{self.label} block={self.block}", sample_seed)

    def _check(self, policy: PolicyNetwork) -> None:
        from edgenetllm.edge.onnx_export import check_policy

        try:
            check_policy(policy)
        except UserError as error:
            raise UserError(f"engine=onnx: {error}; type engine=torch") from None
