"""Names and shapes of the weights of a decoder, and the four products that its blocks consist of."""

from __future__ import annotations

from typing import NamedTuple

from edgenetllm.edge.compiled.architectures import Architecture


class Layer(NamedTuple):
    """Layers of a decoder that are run as one product: their outputs side by side."""

    names: tuple[str, ...]
    rows: tuple[int, ...]  # outputs of each
    columns: int  # inputs
    bias: bool


class Block(NamedTuple):
    """The names of the two norms of a block, and its four products."""

    attention_norm: str
    attention_in: Layer  # q, k and v
    attention_out: Layer
    mlp_norm: str
    mlp_in: Layer  # gate and up, or up alone
    mlp_out: Layer


# Norm, q/k/v, output, norm, MLP in, MLP out: in a block.
LLAMA = (
    "input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.o_proj",
    "post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj",
)  # fmt: skip
GPT2 = ("ln_1", ("attn.c_attn",), "attn.c_proj", "ln_2", ("mlp.c_fc",), "mlp.c_proj")
OPT = (
    "self_attn_layer_norm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "self_attn.out_proj",
    "final_layer_norm", ("fc1",), "fc2",
)  # fmt: skip
IN_BLOCK = {"llama": LLAMA, "mistral": LLAMA, "qwen2": LLAMA, "gpt2": GPT2, "opt": OPT}
BLOCK = {"gpt2": "h.{}."}  # else layers.{}.
FINAL_NORM = {"gpt2": "ln_f", "opt": "final_layer_norm"}  # else norm
POSITIONS = {"gpt2": "wpe.weight", "opt": "embed_positions.weight"}
TRANSPOSED = frozenset({"gpt2"})  # their matrices are (in, out) in the state dict


def block_of(architecture: Architecture, index: int) -> Block:
    """The names in block `index`."""
    prefix = BLOCK.get(architecture.kind, "layers.{}.").format(index)
    attention_norm, attention_in, attention_out, mlp_norm, mlp_in, mlp_out = IN_BLOCK[architecture.kind]
    hidden, inner = architecture.hidden, architecture.inner
    queries, keys = architecture.heads * architecture.head, architecture.kv_heads * architecture.head
    rows = (queries, keys, keys) if len(attention_in) == 3 else (queries + 2 * keys,)
    in_bias, out_bias = architecture.attention_biases
    return Block(
        prefix + attention_norm,
        Layer(tuple(prefix + name for name in attention_in), rows, hidden, in_bias),
        Layer((prefix + attention_out,), (hidden,), queries, out_bias),
        prefix + mlp_norm,
        Layer(tuple(prefix + name for name in mlp_in), (inner,) * len(mlp_in), hidden, architecture.mlp_bias),
        Layer((prefix + mlp_out,), (hidden,), inner, architecture.mlp_bias),
    )


def products(block: Block) -> tuple[Layer, Layer, Layer, Layer]:
    """The four products, in the order in which they are run."""
    return block.attention_in, block.attention_out, block.mlp_in, block.mlp_out


def projections(architecture: Architecture) -> list[Layer]:
    """OPT's products before and after all blocks, where its tokens have another width; else none."""
    width, hidden = architecture.width, architecture.hidden
    if width == hidden:
        return []
    return [Layer(("project_in",), (hidden,), width, False), Layer(("project_out",), (width,), hidden, False)]


def layers(architecture: Architecture) -> list[Layer]:
    """All products, in the order in which they are run."""
    inside = [layer for index in range(architecture.blocks) for layer in products(block_of(architecture, index))]
    around = projections(architecture)
    return around[:1] + inside + around[1:]


def norms(architecture: Architecture) -> list[str]:
    """All norms: two for each block, and the last one."""
    blocks = [block_of(architecture, index) for index in range(architecture.blocks)]
    inside = [name for block in blocks for name in (block.attention_norm, block.mlp_norm)]
    return [*inside, FINAL_NORM.get(architecture.kind, "norm")]


def vector_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name -> shape of norms, biases and the table of positions."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in norms(architecture):
        shapes[f"{name}.weight"] = (architecture.hidden,)
        if architecture.layer_norm:
            shapes[f"{name}.bias"] = (architecture.hidden,)
    for layer in layers(architecture):
        if layer.bias:
            shapes |= {f"{name}.bias": (rows,) for name, rows in zip(layer.names, layer.rows, strict=True)}
    if architecture.positions is not None:
        rows = architecture.positions + architecture.position_offset
        shapes[POSITIONS[architecture.kind]] = (rows, architecture.hidden)
    return shapes


def matrix_shapes(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """Name -> (out, in) of the matrices."""
    return {
        f"{name}.weight": (rows, layer.columns)
        for layer in layers(architecture)
        for name, rows in zip(layer.names, layer.rows, strict=True)
    }
