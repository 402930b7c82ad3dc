"""Is a decoder's configuration that came with a bundle one that may be built? Decided by arithmetic, before anything is.

Transformers builds whatever a configuration says: ten thousand blocks, a hundred million labels, code or weights from the
model hub. A bundle may come from anywhere, so that only architectures and keys that are known are let through, and no
number that the tensors of the bundle do not justify.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from edgenetllm.edge.compiled.settings import ONE_VALUE, WITHOUT_EFFECT
from edgenetllm.errors import UserError
from edgenetllm.models.declared import declared_keys

# Keys without effect on hidden states that could make transformers load code or weights, or take memory: left away.
LEFT_AWAY = frozenset({
    "_attn_implementation", "_attn_implementation_internal", "attn_implementation", "architectures", "auto_map", "id2label",
    "label2id", "num_labels", "quantization_config", "task_specific_params", "vocab_size",
})  # fmt: skip
# decoder.layers.3.mlp.up_proj.weight, decoder.h.3.attn.c_attn.bias
BLOCK = re.compile(r"decoder\.(?:[a-z_]+\.)?(\d+)\.")
BLOCKS = frozenset({"num_hidden_layers", "num_layers", "n_layer", "n_layers"})
# Counts of heads, experts, groups: no more than the matrices are wide; not sizes, which the shapes are compared with.
COUNT = re.compile(r"(num|n)_.*|.*_(heads|experts|groups?)")
NO_COUNTS = frozenset({"n_positions", "n_ctx", "n_embd", "n_inner"})
LARGEST = 1 << 31  # of any other whole number
LONGEST_TEXT, LONGEST_LIST, DEEPEST = 1000, 4096, 4


def check_described(config: Mapping[str, Any], tensors: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Any]:
    """The keys of a bundle's model that a decoder is built from, its `tensors` being name -> shape.

    Raises UserError, naming the key, for an architecture or a key that is not known and for a value that cannot be.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # takes half a second

    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"{where}: its manifest's model has model_type={kind!r:.80}, which is no decoder of transformers"
        )
    used = {name: value for name, value in config.items() if name not in LEFT_AWAY}
    if unknown := sorted(set(used) - declared_keys(kind) - WITHOUT_EFFECT - set(ONE_VALUE)):
        raise UserError(f"{where}: its manifest's model has the key {unknown[0]!r:.80}, which no {kind} has")
    own = {name: shape for name, shape in tensors.items() if name.startswith("decoder.")}
    most = max([len(own), *(size for shape in own.values() for size in shape)], default=0)
    blocks = blocks_of(own, where)
    for name, value in used.items():
        _check_value(name, value, f"{where}: its manifest's model says {name}={value!r:.80}", 0)
        if type(value) is int:
            _check_number(name, value, most, blocks, where)
    return {"model_type": kind, **used}


def blocks_of(tensors: Iterable[str], where: str) -> int:
    """The number of blocks whose tensors there are. Raises UserError where one is missing between them."""
    numbers = {int(match[1]) for name in tensors if (match := BLOCK.match(name)) and len(match[1]) < 7}
    if numbers != set(range(len(numbers))):
        raise UserError(
            f"{where}: the tensors of block {min(set(range(len(numbers))) - numbers)} of its model are missing"
        )
    return len(numbers)


def _check_number(name: str, value: int, most: int, blocks: int, where: str) -> None:
    """`most` is the largest size and the number of tensors, of which no count of parts of a decoder is larger."""
    if name in BLOCKS and value != blocks:
        raise UserError(f"{where}: its manifest's model has {name}={value!r:.80}, its tensors name {blocks} blocks")
    if not -1 <= value <= LARGEST or (COUNT.fullmatch(name) and name not in NO_COUNTS and value > most):
        raise UserError(f"{where}: its manifest's model says {name}={value!r:.80}, more than its tensors have")


def _check_value(name: str, value: Any, where: str, depth: int) -> None:
    """Raises UserError for texts, lists and objects that no configuration has so long."""
    if isinstance(value, str):
        fits = len(value) <= LONGEST_TEXT
    elif isinstance(value, dict | list):
        fits = len(value) <= LONGEST_LIST and depth < DEEPEST
    else:
        fits = type(value) is not int or -LARGEST <= value <= LARGEST
    if not fits:
        raise UserError(f"{where}, which is too large")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_value(name, inner, where, depth + 1)
