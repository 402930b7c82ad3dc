"""Many episodes side by side in one process: python benchmarks/side_by_side.py --episodes 1000 --steps 12

SmolLM2-135M with random zeros and random networks of ABR around it, in the compiled engine: seconds for so many decisions of
so many sessions, and the memory that they take. With `--layers 4` its first blocks alone play, as in most studies here.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from decision_sessions import abr_task, write_bundle

from edgenetllm.edge.engines.compiled import CompiledEngine
from edgenetllm.experience.rollout import play
from edgenetllm.models.backbone import WheelBackbone

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=ROOT / "data" / "cache")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    settings = yaml.safe_load((ROOT / "conf/model/smollm2.yaml").read_text())
    del settings["_target_"]
    given = {**settings, "folder": options.cache / "backbones", "layers": options.layers}
    task = abr_task()
    with TemporaryDirectory() as folder:
        write_bundle(task, WheelBackbone(**given).load(), options.sparsity, Path(folder) / "bundle")
        session = CompiledEngine(threads=options.threads).load(Path(folder) / "bundle", task)
        play(task.environment("test"), task.seeds("test")[:2], session, limit=2)  # compiles
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seeds = np.resize(task.seeds("test"), options.episodes)
        began = time.perf_counter()
        played = play(task.environment("test"), seeds, session, limit=options.steps)
        seconds = time.perf_counter() - began
    decisions = options.episodes * options.steps
    figures = {
        "seconds": seconds,
        "decisions_per_s": decisions / seconds,
        "peak_mb_more": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "cache_mb": session.session.nbytes / 1e6,
        "last_step_s": float(played.decision_ms[-1]) / 1000,
    }
    print(json.dumps({**vars(options), **figures}, default=str, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
