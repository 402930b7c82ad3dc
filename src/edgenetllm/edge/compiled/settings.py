"""A transformers configuration that is read key by key, so that no key that changes the computation goes unread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from edgenetllm.errors import UserError

LARGEST = 1 << 20  # size of anything: more than any decoder has
SMALLEST, LARGEST_NUMBER = 1e-30, 1e30  # within float32

# Keys without effect on the hidden states of a decoder that is fed with embeddings and does not learn; `quantization_config`
# says how a checkpoint was stored.
WITHOUT_EFFECT = frozenset([
    "_attn_implementation", "_attn_implementation_internal", "_model_name_or_path", "_name_or_path",
    "activation_dropout", "architectures", "attention_dropout", "attn_implementation", "attn_pdrop", "auto_map",
    "bos_token_id", "chunk_size_feed_forward", "cls_token_id", "dropout", "dtype", "embd_pdrop", "eos_token_id",
    "id2label", "init_std", "initializer_range", "is_llama_config", "label2id", "layerdrop", "mask_token_id",
    "max_position_embeddings", "max_window_layers", "model_type", "n_ctx", "name_or_path", "num_labels",
    "output_attentions", "output_hidden_states", "pad_token_id", "prefix", "pretraining_tp", "problem_type",
    "quantization_config", "resid_pdrop", "return_dict", "sep_token_id", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj", "task_specific_params",
    "tie_word_embeddings", "torch_dtype", "transformers.js_config", "transformers_version", "unk_token_id",
    "use_cache", "vocab_size"
])  # fmt: skip
# Keys of any configuration, and the values that leave the computation as it is.
ONE_VALUE: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "is_decoder": (False, True),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "rope_interleaved": (False,),
    "partial_rotary_factor": (None, 1.0),
    "pruned_heads": (None, {}),
    "layer_types": (None,),
}


class Settings:
    """The configuration of one decoder; every method takes the default of transformers for an absent key."""

    def __init__(self, kind: str, config: Mapping[str, Any]) -> None:
        self.kind, self._config = kind, config
        self._read: set[str] = set()

    def take(self, name: str, default: Any) -> Any:
        self._read.add(name)
        return self._config.get(name, default)

    def size(self, name: str, default: int) -> int:
        """A positive whole number, no larger than any model has it: the manifest of a bundle may say anything."""
        value = self.take(name, default)
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise self.error(name, f"it must be a whole number from 1 to {LARGEST}")
        return value

    def optional_size(self, name: str, default: int | None) -> int | None:
        return None if self.take(name, default) is None else self.size(name, 1 if default is None else default)

    def number(self, name: str, default: float) -> float:
        """A finite number above zero."""
        value = self.take(name, default)
        if not is_positive(value):
            raise self.error(name, "it must be a finite number above zero")
        return float(value)

    def choice(self, name: str, known: Mapping[str, Any], default: str) -> Any:
        """The meaning of one of the known words."""
        value = self.take(name, default)
        if not isinstance(value, str) or value not in known:
            raise self.error(name, f"it runs {' and '.join(known)}")
        return known[value]

    def flag(self, name: str, default: bool) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "it must be true or false")
        return value

    def only(self, name: str, value: Any) -> None:
        """Raises UserError for any other value than this one, which is the default too."""
        if self.take(name, value) != value:
            raise self.error(name, f"it runs {value} alone")

    def refuse_others(self) -> None:
        """Raises UserError for keys that were not read and may change the computation."""
        for name in sorted(self._config.keys() - self._read - WITHOUT_EFFECT):
            if name not in ONE_VALUE:
                raise self.error(name, "it does not know this key")
            if self._config[name] not in ONE_VALUE[name]:
                raise self.error(name, "it does not run this")

    def error(self, name: str, reason: str) -> UserError:
        return UserError(
            f"engine=compiled does not run this {self.kind}, whose configuration says {name}={self._config.get(name)!r:.200} "
            f"({reason}): type engine=torch"
        )


def is_positive(value: Any) -> TypeGuard[float]:
    """True for a number above zero that float32 has, and its inverse as well."""
    return isinstance(value, int | float) and not isinstance(value, bool) and SMALLEST < value < LARGEST_NUMBER
