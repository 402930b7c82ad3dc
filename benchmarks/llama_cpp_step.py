"""A step of llama.cpp on embeddings, for `decision.py`; llama-cpp-python and gguf are needed here alone."""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from torch import nn

from edgenetllm.models.decoder import width

# The names of a block's tensors in the decoder and in a GGUF file.
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
VOCABULARY = 32  # of the embedding that a file must have, and that no step reads
KINDS = {8: gguf.GGMLQuantizationType.Q8_0, 4: gguf.GGMLQuantizationType.Q4_0}


class LlamaCppStep:
    """A Llama decoder in llama.cpp with `prefix` cached, one thread; the same step of `tokens` again and again.

    `bits`: 8 (Q8_0) or 4 (Q4_0, where rows are a multiple of 32 long).
    """

    def __init__(self, decoder: nn.Module, bits: int, prefix: np.ndarray, tokens: np.ndarray) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "decoder.gguf"
            write_gguf(decoder, file, bits)
            self.reads = file.stat().st_size
            llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
            llama_cpp.llama_backend_init()
            options = llama_cpp.llama_model_default_params()
            options.use_mmap, options.n_gpu_layers = False, 0
            self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), options)
        if not self.model:
            raise RuntimeError("llama.cpp does not load the decoder")
        context = llama_cpp.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = 256, 256, 256
        context.n_threads = context.n_threads_batch = 1
        context.embeddings, context.pooling_type = True, llama_cpp.LLAMA_POOLING_TYPE_NONE
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.cached, self.width = prefix.shape[1], width(decoder)
        self.batches = [_batch(tokens[0], self.cached, self.width), _batch(prefix[0], 0, self.width)]
        self._decode(self.batches[1])

    def __call__(self) -> np.ndarray:
        llama_cpp.llama_memory_seq_rm(self.memory, 0, self.cached, -1)
        self._decode(self.batches[0])
        last = llama_cpp.llama_get_embeddings_ith(self.context, -1)
        return np.ctypeslib.as_array(last, (self.width,))[None].copy()

    def _decode(self, batch: Any) -> None:
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama.cpp does not decode the batch")


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """llama.cpp prints pages of text otherwise."""


def _batch(tokens: np.ndarray, position: int, size: int) -> Any:
    """A batch of embeddings (tokens, width) of one sequence; the last one is an output."""
    batch = llama_cpp.llama_batch_init(len(tokens), size, 1)
    values = np.ascontiguousarray(tokens, np.float32)
    ctypes.memmove(batch.embd, values.ctypes.data, values.nbytes)
    batch.n_tokens = len(tokens)
    for number in range(len(tokens)):
        batch.pos[number], batch.n_seq_id[number], batch.seq_id[number][0] = position + number, 1, 0
        batch.logits[number] = number == len(tokens) - 1
    return batch


def write_gguf(decoder: nn.Module, file: Path, bits: int) -> None:
    """Write a Llama decoder, its matrices in Q8_0 or Q4_0, as a GGUF file without a vocabulary."""
    config: Any = decoder.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    # An embedding, which no step reads, and the blocks.
    writer.add_tensor("token_embd.weight", np.zeros((VOCABULARY, config.hidden_size), np.float32))
    state = {name: value.float().numpy() for name, value in decoder.state_dict().items()}
    writer.add_tensor("output_norm.weight", state["norm.weight"])
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for block in range(config.num_hidden_layers):
        for ours, theirs in NAMES.items():
            value = state[f"layers.{block}.{ours}.weight"]
            if (count := heads.get(ours.rpartition(".")[2])) is not None:
                value = _interleaved(value, count)
            name = f"blk.{block}.{theirs}.weight"
            if value.ndim == 1:
                writer.add_tensor(name, value)
            else:
                writer.add_tensor(name, gguf.quants.quantize(value, KINDS[bits]), raw_dtype=KINDS[bits])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleaved(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order of llama.cpp's rotary positions, which turn neighbours where transformers turns halves."""
    rows, columns = matrix.shape
    halves = matrix.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
