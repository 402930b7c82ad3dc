"""Small real things that many tests share: a task on generated traces and policies of every architecture in conf."""

from __future__ import annotations

from pathlib import Path

import torch

from edgenetllm.models.decoder import blocks, build_decoder, prunable_layers, weight_out_in
from edgenetllm.models.policy import PolicyNetwork, build_policy
from edgenetllm.pruning import wanda
from edgenetllm.tasks.abr.data.datasets import Synthetic
from edgenetllm.tasks.abr.task import AbrTask

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
ARCHITECTURES = {
    "llama": {"model_type": "llama", **SMALL, "num_key_value_heads": 2},
    "qwen2": {"model_type": "qwen2", **SMALL, "num_key_value_heads": 2},
    "llama3": {"model_type": "llama", **SMALL, "num_key_value_heads": 1, "max_position_embeddings": 256,
               "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64}},
    "mistral": {"model_type": "mistral", **SMALL, "num_key_value_heads": 2, "sliding_window": None},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 1024},
    "opt": {"model_type": "opt", "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
            "max_position_embeddings": 512, "word_embed_proj_dim": 16},
}  # fmt: skip


def make_task(tokens: str = "fused") -> AbrTask:
    data = Synthetic("synthetic", seed=3, seconds=320, train=20, val=6, test=8)
    return AbrTask("abr", data, Path("data"), "lin", tokens, noise=True, temperature=0.1)  # type: ignore[arg-type]


def make_policy(task: AbrTask, settings: dict, seed: int = 0) -> PolicyNetwork:
    torch.manual_seed(seed)
    return build_policy(build_decoder(settings), {task.name: task}, embedding_rms=0.5).eval()


def prune_by_hooks(policy: PolicyNetwork, batches: list, counts: dict[str, int]) -> None:
    """Wanda the obvious way, to `counts` zeros: hooks on the whole model, one run per block."""
    for block in blocks(policy.decoder):
        inside = {name: one for name, one in prunable_layers(policy.decoder).items() if one in set(block.modules())}
        seen: dict[str, list[torch.Tensor]] = {name: [] for name in inside}
        handles = [
            layer.register_forward_pre_hook(lambda _, args, into=seen[name]: into.append(args[0].flatten(0, -2)))
            for name, layer in inside.items()
        ]
        with torch.no_grad():
            for batch in batches:
                policy.hidden(policy.encoder.embed(batch["observation"]), batch["return_to_go"], batch["action"])
        for handle in handles:
            handle.remove()
        for name, layer in inside.items():
            weight, squares = weight_out_in(layer), torch.cat(seen[name]).square().sum(0)
            weight.copy_(wanda.prune(weight, squares, counts[name] / weight.numel()))
