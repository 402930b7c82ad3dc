"""Decisions learnt per second, from NetLLM's way of training to ours, one change at a time: python benchmarks/adaptation.py

NetLLM (adaptive_bitrate_streaming/run_plm.py in github.com/duowuyms/NetLLM, its defaults): eight tokens per decision, one
window of 20 decisions per step, float32. All rows have the same backbone, the same adapter and the same loss: cross-entropy
of every decision in the batch. A row is a ratio of medians, measured in turns so that a busy machine slows all rows alike.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import yaml
from tqdm import tqdm

from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import Batch, EpisodeDataset
from edgenetllm.experience.pool import Pool
from edgenetllm.models.adapters import Lora, cast_frozen_linears
from edgenetllm.models.backbone import WheelBackbone
from edgenetllm.models.policy import PolicyNetwork, build_policy
from edgenetllm.tasks.abr.data.datasets import Synthetic
from edgenetllm.tasks.abr.task import AbrTask

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Way:
    """One way to make and multiply a batch."""

    name: str
    tokens: str  # per_feature: eight a decision; fused: three
    window: int | None  # decisions in a sequence; None: the whole episode
    batch_size: int  # sequences
    bf16: bool
    compiled: bool = False


WAYS = [
    Way("NetLLM's: per feature, window 20, batch 1, fp32", "per_feature", 20, 1, False),
    Way("+ bf16", "per_feature", 20, 1, True),
    Way("+ whole episodes of 47", "per_feature", None, 1, True),
    Way("+ batch 16", "per_feature", None, 16, True),
    Way("+ one state token (the default)", "fused", None, 16, True),
    Way("+ torch.compile", "fused", None, 16, True, compiled=True),
]


class Learner:
    """One way with its own model, optimizer and batches."""

    def __init__(self, way: Way, source: WheelBackbone, pool: Pool, task: AbrTask) -> None:
        torch.manual_seed(0)
        backbone = source.load()
        Lora().attach(backbone.decoder, seed=0)
        if way.bf16:
            cast_frozen_linears(backbone.decoder, torch.bfloat16)
        self.way, self.dataset = way, EpisodeDataset(pool, way.window)
        self.policy: PolicyNetwork = build_policy(backbone.decoder, {task.name: task}, backbone.embedding_rms).train()
        if way.compiled:
            self.policy.decoder.compile(dynamic=False)
        self.optimizer = torch.optim.AdamW([p for p in self.policy.parameters() if p.requires_grad], lr=1e-4)
        self.order = np.random.default_rng(0)

    def step(self) -> tuple[int, float]:
        """Learn from one batch: decisions in it, seconds taken (making the batch included)."""
        began = time.perf_counter()
        chosen = self.order.choice(len(self.dataset), self.way.batch_size, replace=False)
        batch: Batch = self.dataset[[int(index) for index in chosen]]
        batch.pop("target", None)  # the same loss for all: the action taken
        with torch.autocast("cpu", torch.bfloat16, enabled=self.way.bf16):
            loss = self.policy.loss(batch, batch["observation"])  # type: ignore[arg-type]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return int(batch["valid"].sum()), time.perf_counter() - began  # type: ignore[union-attr]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=None, help="decoder blocks (default: all 30)")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds; each gives every way a turn")
    parser.add_argument("--decisions", type=int, default=700, help="learnt by each way in a turn, at least")
    parser.add_argument("--ways", type=int, nargs="+", default=list(range(len(WAYS))), help="rows, from 0")
    parser.add_argument("--cache", type=Path, default=ROOT / "data" / "cache")
    options = parser.parse_args()
    torch.set_num_threads(1)

    # Backbone, tasks with both layouts of tokens, and a pool.
    settings = yaml.safe_load((ROOT / "conf/model/smollm2.yaml").read_text())
    del settings["_target_"]
    source = WheelBackbone(**{**settings, "folder": options.cache / "backbones", "layers": options.layers})
    data = Synthetic("synthetic", seed=0, seconds=320, train=200, val=10, test=10)
    tasks = {
        tokens: AbrTask("abr", data, ROOT / "data", "lin", tokens, noise=True, temperature=0.1)  # type: ignore[arg-type]
        for tokens in ("per_feature", "fused")
    }
    with TemporaryDirectory() as folder:
        pool = collect(tasks["fused"], [PoolEntry("robustmpc_tuned", 64)], seed=0, folder=Path(folder), workers=1)
    # Rounds in which each way learns in turn, so that a change in load affects all of them.
    learners = [Learner(way, source, pool, tasks[way.tokens]) for way in (WAYS[number] for number in options.ways)]
    rates: list[list[float]] = [[] for _ in learners]
    for number in tqdm(range(options.rounds + 1), desc="rounds (the first warms up)"):
        for learner, seen in zip(learners, rates, strict=True):
            rate = _turn(learner, options.decisions if number else 1)
            if number:
                seen.append(rate)
    # Report.
    print(
        f"SmolLM2-135M, {options.layers or 30} blocks, LoRA rank 32, one thread of {torch.backends.cpu.get_cpu_capability()}"
    )
    first = np.median(rates[0])
    for learner, seen in zip(learners, rates, strict=True):
        low, middle, high = np.percentile(seen, [0, 50, 100])
        print(f"{learner.way.name:<50} {middle:7.1f} decisions/s [{low:.1f}, {high:.1f}]   {middle / first:5.2f} x")


def _turn(learner: Learner, decisions: int) -> float:
    """Decisions learnt per second."""
    learnt, seconds = 0, 0.0
    while learnt < decisions:
        more, taken = learner.step()
        learnt, seconds = learnt + more, seconds + taken
    return learnt / seconds


if __name__ == "__main__":
    main()
