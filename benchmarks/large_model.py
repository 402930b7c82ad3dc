"""The cost of a 7B model: Llama-2-7B's architecture with random weights, adapted, pruned and asked for decisions.

    python benchmarks/large_model.py --device cuda --write docs/performance.md     # all 32 blocks, one GPU of 80 GB
    python benchmarks/large_model.py --blocks 2 --device cpu                       # the same code, to see that it runs

Random weights are built in bfloat16 on the device: times and memory do not depend on their values. Model FLOPs of a step
with a frozen backbone: 4 per frozen weight and token (forward, and the gradient of the activations alone), 6 per trained
one, 12 x blocks x width x sequence for attention; what is recomputed for gradient checkpointing does not count.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.experience.rollout import play
from edgenetllm.models.adapters import Lora, cast_frozen_linears, merge
from edgenetllm.models.decoder import build_decoder, recompute_activations
from edgenetllm.models.module import AdaptationModule
from edgenetllm.models.policy import PolicyNetwork, build_policy
from edgenetllm.models.session import Session
from edgenetllm.pruning.oneshot import prune_module
from edgenetllm.pruning.options import Pruning
from edgenetllm.pruning.recovery.recover import peak_memory
from edgenetllm.pruning.sparsegpt import SparseGpt
from edgenetllm.pruning.wanda import Wanda
from edgenetllm.tasks.abr.data.datasets import Synthetic
from edgenetllm.tasks.abr.task import AbrTask

ROOT = Path(__file__).resolve().parents[1]
LLAMA2_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
}  # fmt: skip
METHODS = {"wanda": Wanda(), "sparsegpt": SparseGpt()}
PEAK_TFLOPS = {"H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312}  # bfloat16, dense, from the data sheets
Row = tuple[str, str]


def main() -> None:
    # A pool of generated traces.
    options = _options()
    device = torch.device(options.device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    data = Synthetic("synthetic", seed=0, seconds=320, train=200, val=10, test=10)
    task = AbrTask("abr", data, ROOT / "data", "lin", "fused", noise=True, temperature=0.1)
    with TemporaryDirectory() as folder:
        episodes = max(options.windows, options.batch_size)
        pool = collect(task, [PoolEntry("bba", episodes)], seed=0, folder=Path(folder), workers=1)
    datamodule = PoolDataModule(
        {task.name: task}, {task.name: pool}, batch_size=options.batch_size, batches_per_epoch=1, seed=0
    )
    datamodule.setup()

    # Measure adaptation, pruning and decisions.
    rows: list[Row] = [("matrix product of 4096 x 4096 x 4096", f"{matmul_tflops(device, options.dtype):.2f} TFLOP/s")]
    policy = random_policy(task, options, device)
    batch = to_device(datamodule.datasets[task.name][list(range(options.batch_size))], device)
    rows += adaptation(policy, task, batch, options, device)
    merge(policy.decoder)
    policy.requires_grad_(False).eval().to("cpu")
    windows = datamodule.calibration_batches(options.windows, batch_size=min(16, options.windows))
    for name in options.methods:
        rows += pruning(policy, name, windows, device)
    rows += decisions(policy, task, options, device)
    # Report.
    text = report(rows, options, device)
    print(text)
    if options.write is not None:
        options.write.write_text(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--blocks", type=int, default=32, help="decoder blocks of Llama-2-7B")
    parser.add_argument("--rank", type=int, default=128, help="of LoRA, on all matrices")
    parser.add_argument("--batch-size", type=int, default=16, help="episodes of 47 decisions, 141 tokens each")
    parser.add_argument("--steps", type=int, default=10, help="timed optimisation steps, after two that are not")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--windows", type=int, default=128, help="calibration episodes")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--decisions", type=int, default=47, help="timed decisions of one episode")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own)")
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    native = options.device == "cuda" or torch.cpu._is_avx512_bf16_supported()
    options.dtype = torch.bfloat16 if native else torch.float32
    return options


def random_policy(task: AbrTask, options: argparse.Namespace, device: torch.device) -> PolicyNetwork:
    torch.manual_seed(0)
    with device:
        decoder = build_decoder(LLAMA2_7B, options.blocks, options.dtype)
    for parameter in decoder.parameters():  # the norms, as in adaptation
        if parameter.dim() == 1:
            parameter.data = parameter.data.float()
    Lora(rank=options.rank, alpha=options.rank).attach(decoder, seed=0)
    cast_frozen_linears(decoder, options.dtype)
    if options.gradient_checkpointing:
        recompute_activations(decoder)
    return build_policy(decoder, {task.name: task}, embedding_rms=0.02).to(device)


def adaptation(
    policy: PolicyNetwork, task: AbrTask, batch: dict[str, Any], options: argparse.Namespace, device: torch.device
) -> list[Row]:
    # An optimisation step.
    module = AdaptationModule(
        policy, {task.name: task}, backbone={}, target_returns={}, adapter_lr=1e-4, task_lr=1e-4, weight_decay=0.0,
        warmup_steps=1, total_steps=100,
    )  # fmt: skip
    optimizer: torch.optim.Optimizer = module.configure_optimizers()["optimizer"]  # type: ignore[index,call-overload,assignment]
    trained = [p for p in policy.parameters() if p.requires_grad]
    policy.train()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=options.dtype == torch.bfloat16):
            loss = module.loss({task.name: batch})
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    # Time and memory of it.
    with peak_memory(on_gpu=device.type == "cuda") as peak:
        for _ in range(2):
            step()
        seconds = median(timed(step, device) for _ in range(options.steps))
    # Tokens and floating-point operations per second.
    episodes, steps = batch["valid"].shape
    sequence = steps * policy.networks().tokens_per_step
    tokens = episodes * sequence
    updated = sum(p.numel() for p in policy.decoder.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in policy.decoder.parameters() if not p.requires_grad)
    per_token = 4 * frozen + 6 * updated + 12 * options.blocks * int(LLAMA2_7B["hidden_size"]) * sequence
    rate = per_token * tokens / seconds / 1e12
    sheet = next((peak for card, peak in PEAK_TFLOPS.items() if card in card_name(device)), None)
    utilisation = "" if sheet is None else f", {rate / sheet:.1%} of the {sheet} of the data sheet"
    return [
        ("backbone", f"{frozen / 1e9:.2f} G frozen weights, {updated / 1e6:.0f} M in LoRA of rank {options.rank}"),
        ("adaptation step", f"{1e3 * seconds:.0f} ms for {episodes} episodes, {tokens} tokens"),
        ("adaptation speed", f"{tokens / seconds:.0f} tokens/s"),
        ("model FLOPs", f"{rate:.2f} TFLOP/s{utilisation}"),
        ("peak memory of adaptation", f"{peak[0] / 2**30:.1f} GiB"),
    ]


def pruning(policy: PolicyNetwork, name: str, windows: list[Any], device: torch.device) -> list[Row]:
    """Prune float32 weights in the main memory, block by block on the device."""
    pruned = copy.deepcopy(policy)
    with peak_memory(on_gpu=device.type == "cuda") as peak:
        seconds = timed(lambda: prune_module(pruned, Pruning(METHODS[name]), 0.5, windows, device=device), device)
    memory = f", {peak[0] / 2**30:.1f} GiB on the device" if device.type == "cuda" else ""
    sequences = sum(len(window["valid"]) for window in windows)
    return [(f"pruning with {name}", f"{seconds:.1f} s on {sequences} windows{memory}")]


@torch.inference_mode()
def decisions(policy: PolicyNetwork, task: AbrTask, options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Time of the decisions of one episode, with a session's cache, and with all tokens computed for each decision."""
    policy.decoder.to(options.dtype)
    policy.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=options.dtype == torch.bfloat16):
        # With a cache.
        session = Session(policy, 0.0, "cached")
        for _ in range(2):  # the first warms up
            episode = play(
                task.environment("test"),
                task.seeds("test")[:1],
                session,
                keep_observations=True,
                limit=options.decisions,
            )
        # The same decisions, each from all tokens so far.
        seen = {name: torch.as_tensor(column).float().to(device) for name, column in episode.observation.items()}
        action, returns = torch.as_tensor(episode.action).to(device), torch.zeros(episode.action.shape, device=device)
        recomputed = []
        for upto in range(1, len(episode.decision_ms) + 1):

            def decide(upto: int = upto) -> object:
                embedded = policy.encoder.embed({name: column[:, :upto] for name, column in seen.items()})
                return policy.head.logits(policy.hidden(embedded, returns[:, :upto], action[:, :upto]), embedded).cpu()

            recomputed.append(1e3 * timed(decide, device))
    cached = list(episode.decision_ms)
    return [
        ("decision with KV cache", f"{median(cached):.1f} ms median, {cached[-1]:.1f} ms for decision {len(cached)}"),
        (
            "decision recomputed",
            f"{median(recomputed):.1f} ms median, {recomputed[-1]:.1f} ms for decision {len(cached)}",
        ),
    ]


def matmul_tflops(device: torch.device, dtype: torch.dtype, size: int = 4096) -> float:
    """The best throughput of this device in practice, to compare with its data sheet."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = min(timed(lambda: a @ b, device) for _ in range(5))
    return 2 * size**3 / seconds / 1e12


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, with everything that was queued on the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def to_device(batch: Any, device: torch.device) -> Any:
    return batch.to(device) if isinstance(batch, Tensor) else {k: to_device(v, device) for k, v in batch.items()}


def card_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()


def report(rows: list[Row], options: argparse.Namespace, device: torch.device) -> str:
    where = (
        card_name(device) if device.type == "cuda" else f"CPU {card_name(device)}, {torch.get_num_threads()} threads"
    )
    lines = [
        f"# Llama-2-7B's architecture, {options.blocks} of 32 blocks, random weights",
        "",
        f"{where}; {str(options.dtype).removeprefix('torch.')}; torch {torch.__version__}; "
        f"gradient checkpointing {'on' if options.gradient_checkpointing else 'off'}. "
        "Written by `python benchmarks/large_model.py`.",
        "",
        "| what | measured |",
        "|---|---|",
        *(f"| {what} | {value} |" for what, value in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
