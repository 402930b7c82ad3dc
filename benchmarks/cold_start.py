"""Cold start of the edge runtime: a new process imports it, loads a bundle and decides once; seconds, and memory at its peak.

    python benchmarks/cold_start.py --json cold.json

The bundle is one of ABR with 4 blocks of SmolLM2's size, random weights, 90 % sparse, int8 (or `--bundle`, of ABR). The first
process compiles, and does not count. `--python` names the interpreter of another environment, such as one with
`edgenetllm-edge` alone; in this one, scipy is hidden, which numba imports wherever it is and which no edge device has.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

SPARSITY = 0.9
CONFIG = {
    "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 9,
    "num_key_value_heads": 3,
}  # fmt: skip
CHILD = """
import time; began = time.perf_counter()
import json, sys; sys.modules["scipy"] = None
import edgenetllm.edge as edge
edge.load; imported = time.perf_counter()
policy = edge.load(sys.argv[1]); loaded = time.perf_counter()
action = policy.start().decide(json.loads(sys.argv[2])); decided = time.perf_counter()
peak = next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"import_s": imported - began, "load_s": loaded - imported, "first_decision_s": decided - loaded,
                  "total_s": decided - began, "cpu_s": time.process_time(), "peak_mb": peak, "action": action}))
"""
OBSERVATION = {
    "last_quality": 1, "buffer_s": 8.0, "throughput_mbps": 1.7, "delay_s": 0.6,
    "next_sizes_mb": [0.15, 0.4, 0.6, 0.9, 1.4, 2.1], "chunks_left": 47,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a bundle of ABR; without, one is made")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the environment to measure")
    parser.add_argument("--repeats", type=int, default=5, help="processes; medians are shown")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = (options.bundle or make_bundle(Path(folder) / "bundle")).resolve()
        start(options.python, bundle)
        runs = [start(options.python, bundle) for _ in range(options.repeats)]
    figures = {name: median(run[name] for run in runs) for name in runs[0] if name != "action"}
    for name, value in figures.items():
        print(f"{name:<18}{value:8.3f}" if name.endswith("_s") else f"{name:<18}{value:8.1f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def start(python: str, bundle: Path) -> dict[str, Any]:
    """The figures of one process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [python, "-c", CHILD, str(bundle), json.dumps(OBSERVATION)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def make_bundle(folder: Path, config: dict[str, Any] = CONFIG) -> Path:
    """A random policy of ABR around a backbone of this configuration as a bundle, with the whole template."""
    import torch

    from edgenetllm.edge.export import export_policy
    from edgenetllm.models.decoder import build_decoder, prunable_layers
    from edgenetllm.models.policy import build_policy
    from edgenetllm.tasks.abr.data.datasets import Synthetic
    from edgenetllm.tasks.abr.task import AbrTask

    torch.manual_seed(0)
    data = Synthetic("synthetic", seed=3, seconds=320, train=20, val=6, test=8)
    task = AbrTask("abr", data, Path("data"), "lin", "fused", noise=True, temperature=0.1)
    policy = build_policy(build_decoder(dict(config)), {"abr": task}, embedding_rms=0.5)
    layers = prunable_layers(policy.decoder)
    with torch.no_grad():
        for layer in layers.values():
            layer.weight.mul_(torch.rand(layer.weight.shape) > SPARSITY)
    export_policy(
        policy, folder, matrices=[f"decoder.{name}" for name in layers], adapter=None, values="int8",
        target_returns={"abr": 40.0}, parent={}, fallbacks={"abr": task.fallbacks()},
    )  # fmt: skip
    return folder


if __name__ == "__main__":
    main()
