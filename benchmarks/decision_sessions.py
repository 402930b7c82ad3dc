"""The measurements of `decision.py` on bundles: whole decisions, episodes side by side, sizes, cold start and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from decision_contenders import CACHED as CACHED
from decision_contenders import sparse_weights

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.engines.compiled import CompiledEngine
from edgenetllm.edge.engines.engine import Engine
from edgenetllm.edge.engines.recompute import RecomputeEngine
from edgenetllm.edge.engines.torch import TorchEngine
from edgenetllm.edge.export import export_policy, policy_name
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.experience.rollout import play
from edgenetllm.models.decoder import prunable_layers
from edgenetllm.models.policy import build_policy
from edgenetllm.tasks.abr.data.datasets import Synthetic
from edgenetllm.tasks.abr.task import AbrTask
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.task import CjsTask
from edgenetllm.tasks.task import Task

COLD_START = Path(__file__).with_name("cold_start.py")
SIDE_BY_SIDE = 1000


def abr_task() -> AbrTask:
    data = Synthetic("synthetic", seed=0, seconds=320, train=20, val=5, test=10)
    return AbrTask("abr", data, Path("data"), "lin", "fused", noise=True, temperature=0.1)  # type: ignore[arg-type]


def cjs_task(setting: str) -> CjsTask:
    data = SyntheticDags(name="synthetic_dags", setting=setting, seed=0)
    return CjsTask("cjs", data, "pointer", window=20, segment=64, validation=2, test=2)


def write_bundle(task: Task, backbone: Any, sparsity: float, folder: Path, **how: Any) -> dict[str, Any]:
    """A bundle of the backbone with random zeros and random networks around it; returns its sizes."""
    torch.manual_seed(0)
    policy = build_policy(backbone.decoder, {task.name: task}, backbone.embedding_rms).eval()
    weights = sparse_weights(backbone.decoder, sparsity)
    matrices = {name: weights[f"{name}.weight"] for name in prunable_layers(backbone.decoder)}
    assert all(isinstance(one, QuantisedMatrix) for one in matrices.values())
    given = {policy_name(name): one for name, one in matrices.items()} if how.get("values", "int8") == "int8" else None
    if given is None:  # rounded by the export
        policy = build_policy(_copy_with(backbone.decoder, matrices), {task.name: task}, backbone.embedding_rms)
    return export_policy(
        policy,
        folder,
        matrices=[policy_name(name) for name in matrices],
        adapter=None,
        target_returns={task.name: 40.0},
        parent={},
        quantised=given,
        **how,
    )


def _copy_with(decoder: Any, matrices: dict[str, QuantisedMatrix]) -> Any:
    from decision_contenders import dequantised

    state: dict[str, Any] = {name: value.numpy() for name, value in decoder.state_dict().items()}
    return dequantised(decoder, {**state, **{f"{name}.weight": one for name, one in matrices.items()}})


def decision_ms(
    task: Task, bundle: Path, engines: dict[str, Engine], steps: int, last: int, rounds: int
) -> dict[str, float]:
    """Median milliseconds of the `last` of `steps` decisions of an episode, of engines that take turns."""
    sessions = {name: engine.load(bundle, task) for name, engine in engines.items()}
    seeds = task.seeds("test")[:1]
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for session in sessions.values():
        play(task.environment("test"), seeds, session, limit=3)  # compiles
    for _ in range(rounds):
        for name, session in sessions.items():
            played = play(task.environment("test"), seeds, session, limit=steps)
            times[name] += list(played.decision_ms[-last:])
    return {name: median(values) for name, values in times.items()}


def replay_ms(task: Task, bundle: Path, episodes: int, steps: int) -> dict[str, float]:
    """Median milliseconds of one decision of so many episodes side by side, by engine."""
    engines: dict[str, Engine] = {"torch": TorchEngine(), "compiled": CompiledEngine()}
    seeds = np.resize(task.seeds("test"), episodes)
    times = {}
    for name, engine in engines.items():
        session = engine.load(bundle, task)
        play(task.environment("test"), seeds[:2], session, limit=2)
        times[name] = median(play(task.environment("test"), seeds, session, limit=steps).decision_ms)
    return times


def stages_of(task: CjsTask, steps: int) -> float:
    """Mean number of stages that an observation of an episode has."""
    seeds = task.seeds("test")[:1]
    played = play(task.environment("test"), seeds, task.teacher(), keep_observations=True, limit=steps)
    return float(np.mean([column.count for name, column in played.observation.items() if name == "stages"]))  # type: ignore[union-attr]


def measure(folder: Path, few: Any, many: Any, quick: bool) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    """All figures of bundles, and the rows (name, value, target, stretch, unit, most) that are made of them."""
    abr, cjs = abr_task(), cjs_task("tiny" if quick else "small")
    by_torch: dict[str, Engine] = {"torch": TorchEngine(), "compiled": CompiledEngine()}
    rows: list[tuple[Any, ...]] = []
    figures: dict[str, Any] = {}

    # Whole decisions with few blocks.
    steps, rounds = (4, 1) if quick else (47, 3)
    for task, target, stretch in ((abr, 12, 25), (cjs, 6, 12)):
        bundle = folder / task.name
        write_bundle(task, few, 0.9, bundle)
        count = steps if task is abr else 2 * steps
        ms = decision_ms(task, bundle, by_torch, count, count // 3 + 1, rounds)
        figures[f"{task.name} decision_ms"] = ms
        rows.append((f"whole decision, {task.name}, 90 %: over torch", ms["torch"] / ms["compiled"], target, stretch))
        if task is abr:
            rows.append(("whole decision, abr, 90 %", ms["compiled"], 0.9, None, "ms", True))
    figures["cjs stages"] = stages_of(cjs, 2 * steps)

    # The whole window again at every decision, with many blocks.
    write_bundle(abr, many, 0.9, folder / "many")
    engines: dict[str, Engine] = {"recompute": RecomputeEngine(), "compiled": CompiledEngine()}
    ms = decision_ms(abr, folder / "many", engines, steps, 3, 1)
    figures["many blocks decision_ms"] = ms
    rows.append(("recompute over compiled, many blocks, 90 %", ms["recompute"] / ms["compiled"], 100, 150))

    # Episodes side by side.
    ms = replay_ms(abr, folder / "abr", 20 if quick else SIDE_BY_SIDE, 2 if quick else 8)
    figures["side by side ms"] = ms
    rows.append((f"replay of {20 if quick else SIDE_BY_SIDE} episodes: over torch", ms["torch"] / ms["compiled"], 5))

    rows += _sizes(folder, abr, few, figures)
    rows += _cold_start(folder / "abr", 1 if quick else 5, figures)
    return figures, rows


def _sizes(folder: Path, task: Task, backbone: Any, figures: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Bytes of bundles and of weights in memory, as fractions of the dense model in fp16."""
    rows: list[tuple[Any, ...]] = []
    dense = 2 * sum(value.numel() for value in backbone.decoder.parameters())
    for sparsity, resident, bundled in ((0.95, (0.10, 0.08), (0.08, 0.06)), (0.9, (0.17, 0.13), (0.11, 0.08)),
                                        (0.4, (0.40, 0.37), (0.38, None))):  # fmt: skip
        place = folder / f"size-{sparsity:g}"
        sizes = {values: write_bundle(task, backbone, sparsity, place, values=values) for values in ("int4", "int8")}
        loaded = CompiledEngine().decoder(read_bundle(place)).resident_bytes
        figures[f"{sparsity:g} sparse"] = {"resident": loaded, "dense_fp16": dense, **sizes}
        rows.append((f"resident weights, {100 * sparsity:g} %: of dense fp16", loaded / dense, *resident, "x", True))
        for values, one in sizes.items():
            ratio = one["bytes"] / one["dense_fp16_bytes"]
            rows.append((f"bundle {values}, {100 * sparsity:g} %: of dense fp16", ratio, *bundled, "x", True))
    return rows


def _cold_start(bundle: Path, repeats: int, figures: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Seconds from import to the first decision, and memory at its peak, of processes whose caches are warm."""
    written = bundle.with_name("cold_start.json")
    options = ["--bundle", str(bundle), "--repeats", str(repeats), "--json", str(written)]
    subprocess.run([sys.executable, str(COLD_START), *options], check=True, stdout=subprocess.DEVNULL)
    figures["cold start"] = json.loads(written.read_text())
    return [
        ("cold start, import to first decision", figures["cold start"]["total_s"], 1.0, 0.5, "s", True),
        ("memory at its peak, 90 %", figures["cold start"]["peak_mb"], 160, 100, "MB", True),
    ]
