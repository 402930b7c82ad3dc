"""Contenders of `decision.py`: decoder steps and matrix products of one model, each a function without arguments."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from torch import nn

from edgenetllm.edge.compiled import products
from edgenetllm.edge.compiled.decoder import CompiledDecoder
from edgenetllm.edge.compiled.instructions import available
from edgenetllm.edge.compiled.layouts import Layout, aligned_bytes, pack
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.models.causal import new_cache, run_cached
from edgenetllm.models.decoder import prunable_layers, width

Call = Callable[[], Any]
CACHED = 150


@dataclass
class Contender:
    """Something to be timed; `reads` are the bytes of weights and cache that it cannot do without."""

    name: str
    call: Call
    reads: int = 0


def sparse_weights(decoder: nn.Module, sparsity: float, seed: int = 0) -> dict[str, Any]:
    """The weights of a Llama decoder, its matrices rounded to int8 and zeroed at random."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Any] = {name: value.numpy() for name, value in decoder.state_dict().items()}
    for name, layer in prunable_layers(decoder).items():
        matrix = layer.weight.detach().numpy()
        scales = np.abs(matrix).max(1, keepdims=True) / np.float32(127)
        values = np.rint(matrix / scales).astype(np.int8)
        values[rng.random(values.shape, np.float32) < sparsity] = 0
        weights[f"{name}.weight"] = QuantisedMatrix(values, scales.astype(np.float32))
    return weights


def dequantised(decoder: nn.Module, weights: dict[str, Any]) -> nn.Module:
    """The same decoder of transformers with these weights in float32."""
    changed = copy.deepcopy(decoder)
    state = {
        name: torch.from_numpy(one.dense() if isinstance(one, QuantisedMatrix) else one)
        for name, one in weights.items()
    }
    changed.load_state_dict(state)
    return changed


class CompiledStep:
    """A compiled decoder with so many tokens cached; the same step again and again."""

    def __init__(self, config: dict[str, Any], weights: dict[str, Any], prefix: np.ndarray, tokens: np.ndarray) -> None:
        self.decoder = CompiledDecoder(config, weights)
        self.tokens = tokens
        self.state = self.decoder.start(1, capacity=CACHED + 16, band=None)
        self.decoder.extend(self.state, prefix)
        self.cached = (self.state.position, self.state.filled)

    def __call__(self) -> np.ndarray:
        self.state.position, self.state.filled = self.cached
        return self.decoder.extend(self.state, self.tokens)

    @property
    def reads(self) -> int:
        shape = self.state.shape
        return self.decoder.resident_bytes + 8 * CACHED * shape.blocks * shape.kv_heads * shape.head


class TransformersStep:
    """The same step of transformers."""

    def __init__(self, decoder: nn.Module, prefix: np.ndarray, tokens: np.ndarray) -> None:
        self.decoder, dtype = decoder, next(decoder.parameters()).dtype
        self.tokens, self.cache = torch.from_numpy(tokens).to(dtype), new_cache(decoder, None)
        with torch.inference_mode():
            run_cached(decoder, torch.from_numpy(prefix).to(dtype), self.cache, None)

    def __call__(self) -> np.ndarray:
        with torch.inference_mode():
            hidden = run_cached(self.decoder, self.tokens, self.cache, None)[:, -1]
            self.cache.crop(-self.tokens.shape[1])
            return hidden.float().numpy()

    @property
    def reads(self) -> int:
        weights = sum(value.nbytes for value in self.decoder.parameters())
        return weights + sum(layer.keys.nbytes + layer.values.nbytes for layer in self.cache.layers)


def compiled_products(weights: dict[str, Any], tokens: int, layout: Layout | None) -> Contender:
    """All matrices of the compiled decoder, in one compiled call: what of its step is products."""
    matrices = [one for one in weights.values() if isinstance(one, QuantisedMatrix)]
    packed = [pack(one, layout) for one in matrices]
    offsets = np.cumsum([0, *(one.nbytes for one in packed)])
    arena = aligned_bytes(int(offsets[-1]))
    for one, offset in zip(packed, offsets, strict=False):
        arena[offset : offset + one.nbytes] = one.data
    infos = np.stack([one.info for one in packed])
    widths = sorted({one.shape[1] for one in matrices})
    inputs = [np.random.default_rng(columns).standard_normal((tokens, columns), np.float32) for columns in widths]
    which = np.array([widths.index(one.shape[1]) for one in matrices])
    planes = [aligned_bytes(products.plane_bytes(tokens, columns)) for columns in widths]
    scales = [np.zeros(tokens, np.float32) for _ in widths]
    for x, plane, scale in zip(inputs, planes, scales, strict=True):
        products.quantise(x, plane, scale, tokens)
    out = np.zeros((tokens, max(one.shape[0] for one in matrices)), np.float32)
    outs = [np.ascontiguousarray(out[:, : one.shape[0]]) for one in matrices]
    vector = "avx512" in available()
    arguments = (
        arena,
        infos,
        offsets,
        which,
        tuple(inputs),
        tuple(planes),
        tuple(scales),
        numba.typed.List(outs),
        vector,
    )
    return Contender("", lambda: _all_products(*arguments), arena.nbytes)


@numba.njit(nogil=True)
def _all_products(arena, infos, offsets, which, inputs, planes, scales, outs, vector):  # type: ignore[no-untyped-def]
    for number in range(len(infos)):
        one, out = which[number], outs[number]
        products.multiply(
            arena, infos[number], offsets[number], inputs[one], planes[one], scales[one], out, out.shape[0], vector
        )


def torch_products(decoder: nn.Module, tokens: int) -> Contender:
    """torch's int8 weight-only product, in bfloat16, of every matrix."""
    calls = []
    for layer in prunable_layers(decoder).values():
        scales = layer.weight.abs().amax(1) / 127
        values = (layer.weight / scales[:, None]).round().to(torch.int8)
        calls.append((torch.randn(tokens, values.shape[1], dtype=torch.bfloat16), values, scales.bfloat16()))

    @torch.inference_mode()
    def call() -> None:
        for inputs, values, scales in calls:
            torch.ops.aten._weight_int8pack_mm(inputs, values, scales)

    return Contender("", call, sum(values.nbytes + scales.nbytes for _, values, scales in calls))


def onnx_products(decoder: nn.Module, tokens: int, bits: int, accuracy: int) -> Contender:
    """onnxruntime's MatMulNBits of every matrix, in one graph; `accuracy` 4 also rounds the activations, to int8."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    # A graph of products that share their inputs.
    nodes, constants, outputs, columns = [], [], [], set()
    for number, layer in enumerate(prunable_layers(decoder).values()):
        matrix = np.ascontiguousarray(layer.weight.detach().numpy().T)
        columns.add(matrix.shape[0])
        constants.append(numpy_helper.from_array(matrix, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [f"x{matrix.shape[0]}", f"w{number}"], [f"y{number}"], f"n{number}"))
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, [tokens, matrix.shape[1]]))
    inputs = [helper.make_tensor_value_info(f"x{one}", TensorProto.FLOAT, [tokens, one]) for one in sorted(columns)]
    graph = helper.make_graph(nodes, "products", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    quantizer = MatMulNBitsQuantizer(model, bits=bits, block_size=32, is_symmetric=True, accuracy_level=accuracy)
    quantizer.process()
    # Its session, without copies to numpy.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "products.onnx")
        onnx.save(quantizer.model.model, file)
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for one in sorted(columns):
        binding.bind_cpu_input(f"x{one}", np.random.default_rng(one).standard_normal((tokens, one), np.float32))
    for output in outputs:
        binding.bind_output(output.name, "cpu")
    weights = sum(layer.weight.numel() for layer in prunable_layers(decoder).values())
    return Contender("", lambda: session.run_with_iobinding(binding), weights * bits // 8 + weights // 32 * 4)


def openvino_products(decoder: nn.Module, tokens: int, bits: int) -> Contender:
    """OpenVINO's product with weights of int8 or int4 (groups of 64 inputs), activations in float32."""
    import openvino
    from openvino import opset13 as ops

    parameters = {}
    results = []
    for layer in prunable_layers(decoder).values():
        matrix = layer.weight.detach().numpy()
        rows, columns = matrix.shape
        if columns not in parameters:
            parameters[columns] = ops.parameter([tokens, columns], np.float32, f"x{columns}")
        group = columns if bits == 8 else 64
        pieces = matrix.reshape(rows, -1, group)
        scales = np.abs(pieces).max(2, keepdims=True) / (2 ** (bits - 1) - 1)
        values = np.rint(pieces / scales).astype(np.int8)
        if bits == 4:  # two to a byte, the first one in the low half
            nibbles = (values.ravel() & 0xF).astype(np.uint8)
            packed = nibbles[0::2] | (nibbles[1::2] << 4)
            tensor = openvino.Tensor(packed, openvino.Shape(list(values.shape)), openvino.Type.i4)
        else:
            tensor = openvino.Tensor(np.ascontiguousarray(values), shared_memory=False)
        constant = openvino.op.Constant(tensor, shared_memory=False)
        whole = ops.multiply(ops.convert(constant, np.float16), ops.constant(scales.astype(np.float16)))
        weight = ops.convert(ops.reshape(whole, ops.constant([rows, columns]), False), np.float32)
        results.append(ops.matmul(parameters[columns], weight, False, True))
    model = openvino.Model(results, list(parameters.values()))
    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
    for place, one in enumerate(parameters):
        request.set_input_tensor(place, openvino.Tensor(np.ones((tokens, one), np.float32)))
    weights = sum(layer.weight.numel() for layer in prunable_layers(decoder).values())
    return Contender("", request.infer, weights * bits // 8)


def tokens_of(decoder: nn.Module, count: int, seed: int) -> np.ndarray:
    """Random tokens (1, count, width) of the size that the first block knows."""
    return 0.1 * np.random.default_rng(seed).standard_normal((1, count, width(decoder)), np.float32)
