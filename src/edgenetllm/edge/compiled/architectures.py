"""The decoders that can be compiled, described by what the compiled step needs to know of their configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgenetllm.edge.compiled.rotary import Floats, inverse_frequencies
from edgenetllm.edge.compiled.settings import Settings
from edgenetllm.errors import UserError

SILU_GATE, GELU_NEW, RELU = 0, 1, 2


@dataclass(frozen=True)
class Architecture:
    """The sizes and the kind of computation of a decoder."""

    kind: str  # model_type
    width: int  # of the tokens that go in and of the hidden states that come out
    hidden: int  # width of the blocks
    blocks: int
    heads: int
    kv_heads: int
    head: int  # width of a head
    inner: int  # width inside the MLP
    activation: int  # SILU_GATE, GELU_NEW or RELU
    layer_norm: bool  # else RMS norm
    epsilon: float  # of the norms
    attention_biases: tuple[bool, bool]  # of the q, k and v products, and of the output product
    mlp_bias: bool
    frequencies: Floats | None  # of the rotary positions, (head / 2,); None where positions are learned
    positions: int | None  # number of positions of a learned table
    position_offset: int  # the row of the table for the first token
    sliding_window: int | None  # the most tokens that a token of some block sees, itself included

    @property
    def gated(self) -> bool:
        return self.activation == SILU_GATE


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a transformers configuration, as `to_dict()` gives it; absent keys have transformers' defaults.

    Raises UserError for an architecture that is not compiled, and for every key that would change the computation.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in READERS:
        raise UserError(f"engine=compiled does not run {kind!s:.80} (it runs {', '.join(READERS)}): type engine=torch")
    settings = Settings(kind, config)
    architecture = READERS[kind](settings)
    settings.refuse_others()
    if architecture.heads % architecture.kv_heads:
        raise settings.error("num_key_value_heads", "the attention heads are no multiple of it")
    return architecture


def check_supported(config: Mapping[str, Any]) -> None:
    """Raises UserError where `CompiledDecoder` would refuse this configuration."""
    read_architecture(config)


def _llama(settings: Settings) -> Architecture:
    attention_bias, mlp_bias = settings.flag("attention_bias", False), settings.flag("mlp_bias", False)
    return _rotary_decoder(settings, (attention_bias, attention_bias), mlp_bias, 1e-6, None)


def _mistral(settings: Settings) -> Architecture:
    return _rotary_decoder(settings, (False, False), False, 1e-6, settings.optional_size("sliding_window", 4096))


def _qwen2(settings: Settings) -> Architecture:
    used = settings.flag("use_sliding_window", False)
    window = settings.optional_size("sliding_window", 4096)
    return _rotary_decoder(settings, (True, False), False, 1e-6, window if used else None)


def _rotary_decoder(
    settings: Settings, attention_biases: tuple[bool, bool], mlp_bias: bool, epsilon: float, window: int | None
) -> Architecture:
    """The family of Llama: RMS norms, rotary positions, grouped-query attention, an MLP with a SiLU gate."""
    settings.only("hidden_act", "silu")
    # Blocks may be listed one by one; all of them see everything, but where a window is set.
    kinds = settings.take("layer_types", None)
    allowed = ["full_attention"] if window is None else ["full_attention", "sliding_attention"]
    listed = isinstance(kinds, list | tuple) and settings.kind != "mistral" and all(kind in allowed for kind in kinds)
    if kinds is not None and not listed:
        raise settings.error("layer_types", "it is not understood")
    hidden, heads = settings.size("hidden_size", 4096), settings.size("num_attention_heads", 32)
    head = settings.optional_size("head_dim", None)
    if head is None and hidden % heads:
        raise settings.error("hidden_size", "it is no multiple of num_attention_heads")
    head = head or hidden // heads
    if head % 2:
        raise settings.error("head_dim", "rotary positions need an even number")
    defaults = {"llama": (11008, None), "mistral": (14336, 8), "qwen2": (22016, 32)}[settings.kind]
    return Architecture(
        kind=settings.kind,
        width=hidden,
        hidden=hidden,
        blocks=settings.size("num_hidden_layers", 32),
        heads=heads,
        kv_heads=settings.optional_size("num_key_value_heads", defaults[1]) or heads,
        head=head,
        inner=settings.size("intermediate_size", defaults[0]),
        activation=SILU_GATE,
        layer_norm=False,
        epsilon=settings.number("rms_norm_eps", epsilon),
        attention_biases=attention_biases,
        mlp_bias=mlp_bias,
        frequencies=inverse_frequencies(settings, head),
        positions=None,
        position_offset=0,
        sliding_window=window,
    )


def _gpt2(settings: Settings) -> Architecture:
    """GPT-2: layer norms, learned positions, one product for q, k and v, biases everywhere."""
    settings.only("scale_attn_weights", True)
    for name in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"):
        settings.only(name, False)
    hidden, heads = settings.size("n_embd", 768), settings.size("n_head", 12)
    if hidden % heads:
        raise settings.error("n_embd", "it is no multiple of n_head")
    return Architecture(
        kind="gpt2",
        width=hidden,
        hidden=hidden,
        blocks=settings.size("n_layer", 12),
        heads=heads,
        kv_heads=heads,
        head=hidden // heads,
        inner=settings.optional_size("n_inner", None) or 4 * hidden,
        activation=_plain_activation(settings, "gelu_new"),
        layer_norm=True,
        epsilon=settings.number("layer_norm_epsilon", 1e-5),
        attention_biases=(True, True),
        mlp_bias=True,
        frequencies=None,
        positions=settings.size("n_positions", 1024),
        position_offset=0,
        sliding_window=None,
    )


def _opt(settings: Settings) -> Architecture:
    """OPT with its norms before attention and MLP: learned positions from row 2 on, biases, maybe projections around it."""
    settings.only("do_layer_norm_before", True)
    settings.only("_remove_final_layer_norm", False)
    settings.only("layer_norm_elementwise_affine", True)
    hidden, heads = settings.size("hidden_size", 768), settings.size("num_attention_heads", 12)
    if hidden % heads:
        raise settings.error("hidden_size", "it is no multiple of num_attention_heads")
    bias = settings.flag("enable_bias", True)
    return Architecture(
        kind="opt",
        width=settings.optional_size("word_embed_proj_dim", None) or hidden,
        hidden=hidden,
        blocks=settings.size("num_hidden_layers", 12),
        heads=heads,
        kv_heads=heads,
        head=hidden // heads,
        inner=settings.size("ffn_dim", 3072),
        activation=_plain_activation(settings, "relu"),
        layer_norm=True,
        epsilon=1e-5,
        attention_biases=(bias, bias),
        mlp_bias=bias,
        frequencies=None,
        positions=settings.size("max_position_embeddings", 2048),
        position_offset=2,
        sliding_window=None,
    )


def _plain_activation(settings: Settings, default: str) -> int:
    return int(settings.choice("activation_function", {"gelu_new": GELU_NEW, "relu": RELU}, default))


READERS: dict[str, Callable[[Settings], Architecture]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "gpt2": _gpt2,
    "opt": _opt,
}
