"""Time of one-shot pruning compared with the forward passes that it needs: python benchmarks/pruning.py

Sequential calibration runs every window through every block twice: once to see what enters its layers, once, pruned, to know
what enters the next block. The time of those passes alone, without statistics and without pruning, is the yardstick.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml

from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.models.backbone import WheelBackbone
from edgenetllm.models.decoder import blocks
from edgenetllm.models.policy import build_policy
from edgenetllm.pruning.calibration import record_inputs
from edgenetllm.pruning.magnitude import Magnitude
from edgenetllm.pruning.oneshot import prune_module
from edgenetllm.pruning.options import Pruning
from edgenetllm.pruning.sparsegpt import SparseGpt
from edgenetllm.pruning.wanda import Wanda
from edgenetllm.tasks.abr.data.datasets import Synthetic
from edgenetllm.tasks.abr.task import AbrTask

ROOT = Path(__file__).resolve().parents[1]
METHODS = {"magnitude": Magnitude(), "wanda": Wanda(), "sparsegpt": SparseGpt()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--windows", type=int, default=128, help="calibration episodes of 48 decisions, 144 tokens each"
    )
    parser.add_argument("--layers", type=int, default=None, help="decoder blocks (default: all 30)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--cache", type=Path, default=ROOT / "data" / "cache")
    options = parser.parse_args()
    torch.set_num_threads(1)

    # A policy around the backbone, and calibration batches.
    data = Synthetic("synthetic", seed=0, seconds=320, train=200, val=10, test=10)
    task = AbrTask("abr", data, ROOT / "data", "lin", "fused", noise=True, temperature=0.1)
    settings = yaml.safe_load((ROOT / "conf/model/smollm2.yaml").read_text())
    del settings["_target_"]
    backbone = WheelBackbone(**{**settings, "folder": options.cache / "backbones", "layers": options.layers}).load()
    policy = build_policy(backbone.decoder, {task.name: task}, backbone.embedding_rms).eval()
    with TemporaryDirectory() as folder:
        pool = collect(task, [PoolEntry("teacher", options.windows)], seed=0, folder=Path(folder) / "pool", workers=1)
        batches = PoolDataModule(
            {task.name: task}, {task.name: pool}, batch_size=16, batches_per_epoch=1, seed=0
        ).calibration_batches(options.windows)
        passes = _forward_passes(policy, batches, Path(folder) / "states")
    print(f"{'forward passes':<16} {passes:7.1f} s   (two through each of {len(blocks(policy.decoder))} blocks)")
    # Each method on a copy of the policy.
    for method in (METHODS[name] for name in options.methods):
        pruned = copy.deepcopy(policy)
        began = time.perf_counter()
        prune_module(pruned, Pruning(method), 0.5, batches, progress=False)
        seconds = time.perf_counter() - began
        print(f"{method.name:<16} {seconds:7.1f} s   {seconds / passes:.2f} of the passes", flush=True)


def _forward_passes(policy, batches, folder: Path) -> float:  # type: ignore[no-untyped-def]
    folder.mkdir()
    inputs = record_inputs(policy.decoder, batches, policy.calibration_step, policy.calibration_mask, folder)
    began = time.perf_counter()
    with torch.no_grad():
        for block in blocks(policy.decoder):
            for number in range(len(inputs)):
                inputs.run(block, number, torch.device("cpu"))
            inputs.advance(block)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
