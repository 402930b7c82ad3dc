"""The time and the memory of a decision against their targets: python benchmarks/decision.py --json FILE

SmolLM2-135M's weights with random masks, one core, 3 new tokens (a decision of ABR), 150 cached, unless a row says otherwise.
Everything that is compared is timed in turns in this one process, so that a busy machine slows all of it alike, and a figure
is the median of the rounds. The floor of a row is the measured time of reading its weights and cache once, from the cache of
the processor where they fit. The whole decision and the replay are those of random encoders and heads.

Rows of packages that are not installed are left out with a word. Two rows need trained models and are elsewhere: the task
metrics (docs/results.md) and the size of the installation (tests of packaging/edge).
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import logging
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import decision_sessions as sessions
import numba
import numpy as np
import torch
import yaml
from decision_contenders import (
    CompiledStep,
    Contender,
    TransformersStep,
    compiled_products,
    dequantised,
    onnx_products,
    openvino_products,
    sparse_weights,
    tokens_of,
    torch_products,
)
from torch import nn

from edgenetllm.edge.compiled.instructions import chosen
from edgenetllm.edge.compiled.layouts import Layout
from edgenetllm.models.backbone import RandomBackbone, WheelBackbone

ROOT = Path(__file__).resolve().parents[1]
SPARSITIES = (0.4, 0.6, 0.8, 0.9, 0.95)
NEW = 3
SMALLEST = {"model_type": "llama", "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 3}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A figure against its target; `most` where it must not be larger."""

    name: str
    value: float
    target: float
    stretch: float | None = None
    unit: str = "x"
    most: bool = False

    @property
    def verdict(self) -> str:
        sign = -1 if self.most else 1
        if self.stretch is not None and sign * self.value >= sign * self.stretch:
            return "stretch"
        return "reached" if sign * self.value >= sign * self.target else "missed"

    def cells(self) -> list[str]:
        bounds = [self.target, self.stretch]
        limits = ["" if one is None else f"{'≤' if self.most else '≥'} {one:g} {self.unit}" for one in bounds]
        return [self.name, f"{self.value:.3g} {self.unit}", *limits, self.verdict]


def timed(contenders: Sequence[Contender], rounds: int, seconds: float = 0.03) -> dict[str, float]:
    """Milliseconds of each contender: the median over rounds, in each of which all have their turn for so many seconds."""
    counts = {}
    for one in contenders:
        one.call()  # compiles, or reads everything for the first time
        began = time.perf_counter()
        one.call()
        counts[one.name] = max(1, round(seconds / (time.perf_counter() - began)))
    times: dict[str, list[float]] = {one.name: [] for one in contenders}
    for number in range(rounds):
        for one in [*contenders[number:], *contenders[:number]]:
            began = time.perf_counter()
            for _ in range(counts[one.name]):
                one.call()
            times[one.name].append(1e3 * (time.perf_counter() - began) / counts[one.name])
    return {name: median(values) for name, values in times.items()}


@numba.njit(nogil=True, fastmath=True)
def _read(words):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    for number in range(len(words)):
        total += words[number]
    return total


def floors_of(contenders: Sequence[Contender]) -> list[Contender]:
    """For each contender one that only reads as many bytes, again and again the same."""
    words = np.ones(max(one.reads for one in contenders) // 8 + 1, np.int64)
    return [
        Contender(f"floor of {one.name}", functools.partial(_read, words[: one.reads // 8 + 1])) for one in contenders
    ]


def step_contenders(decoder: nn.Module, label: str, sparsities: Sequence[float]) -> list[Contender]:
    """A step of transformers and of the compiled decoder, dense and sparse."""
    config = decoder.config.to_dict()  # type: ignore[union-attr,operator]
    prefix, tokens = tokens_of(decoder, sessions.CACHED, 1), tokens_of(decoder, NEW, 2)
    steps: dict[str, Any] = {
        "transformers fp32": TransformersStep(decoder, prefix, tokens),
        "transformers bf16": TransformersStep(_bf16(decoder), prefix, tokens),
    }
    for sparsity in (0.0, *sparsities):
        weights = sparse_weights(decoder, sparsity)
        steps[f"compiled {_percent(sparsity)}"] = CompiledStep(config, weights, prefix, tokens)
        if sparsity in (0.0, 0.4):
            steps[f"compiled {_percent(sparsity)}, 1 token"] = CompiledStep(config, weights, prefix, tokens[:, :1])
    if _installed("llama_cpp"):
        from llama_cpp_step import LlamaCppStep

        steps |= {f"llama.cpp int{bits}": LlamaCppStep(decoder, bits, prefix, tokens) for bits in (8, 4)}
        error = distance(steps["llama.cpp int8"](), steps["transformers fp32"]())
        if error > 10:
            raise RuntimeError(f"llama.cpp computes something else: {error:.1f} % from transformers")
    return [Contender(f"step, {label}: {name}", step, step.reads) for name, step in steps.items()]


def product_contenders(decoder: nn.Module, label: str, sparsities: Sequence[float]) -> list[Contender]:
    """The products of all matrices alone: our own, and those of other runtimes, dense."""
    made: dict[str, Callable[[], Contender]] = {"torch int8": lambda: torch_products(decoder, NEW)}
    for sparsity in (0.0, *sparsities):
        name = "own dense int8" if sparsity == 0 else f"own {_percent(sparsity)}"
        layout = Layout.DENSE if sparsity == 0 else None
        made[name] = lambda sparsity=sparsity, layout=layout: compiled_products(  # type: ignore[misc]
            sparse_weights(decoder, sparsity), NEW, layout
        )
    if _installed("onnxruntime"):
        for bits in (8, 4):
            made[f"onnxruntime int{bits}"] = lambda bits=bits: onnx_products(decoder, NEW, bits, 1)  # type: ignore[misc]
            made[f"onnxruntime int{bits}, int8 activations"] = lambda bits=bits: onnx_products(  # type: ignore[misc]
                decoder, NEW, bits, 4
            )
    if _installed("openvino"):
        for bits in (8, 4):
            made[f"openvino int{bits}"] = lambda bits=bits: openvino_products(decoder, NEW, bits)  # type: ignore[misc]
    contenders = []
    for name, make in made.items():
        one = make()
        contenders.append(Contender(f"matrices, {label}: {name}", one.call, one.reads))
    return contenders


def error_of_step(decoder: nn.Module, sparsity: float) -> float:
    """Distance of the compiled step's hidden state from transformers' with the same weights in float32, in percent."""
    weights = sparse_weights(decoder, sparsity)
    prefix, tokens = tokens_of(decoder, sessions.CACHED, 1), tokens_of(decoder, NEW, 2)
    ours = CompiledStep(decoder.config.to_dict(), weights, prefix, tokens)()  # type: ignore[union-attr,operator]
    theirs = TransformersStep(dequantised(decoder, weights), prefix, tokens)()
    return distance(ours, theirs)


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The length of the difference, in percent of the length of `theirs`."""
    return 100 * float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def rows_of(ms: dict[str, float], few: str, many: str) -> list[Row]:
    """The rows that are ratios of times."""

    def ratio(slow: str, fast: str) -> float:
        return ms[slow] / ms[fast]

    foreign = [
        name for name in ms if name.startswith(f"matrices, {many}: ") and ": own" not in name and "int4" not in name
    ]
    best = min(foreign, key=lambda name: ms[name])
    step, own = "step, {}: compiled {}", f"matrices, {many}: own {{}}"
    rows = [
        Row(f"step, {many}, 90 %: over transformers bf16",
            ratio(f"step, {many}: transformers bf16", step.format(many, "90 %")), 11, 15),
        Row(f"step, {few}, 90 %: over transformers fp32",
            ratio(f"step, {few}: transformers fp32", step.format(few, "90 %")), 25, 45),
        Row("matrices, 90 %: over our own dense int8", ratio(own.format("dense int8"), own.format("90 %")), 2, 2.5),
        Row(f"own dense int8: over the best other int8 ({best.partition(': ')[2]})",
            ratio(best, own.format("dense int8")), 1.5, 2),
        Row("40 %: over our own dense int8", ratio(own.format("dense int8"), own.format("40 %")), 0.95, 1.2),
        Row(f"40 %, step of one token, {many}: over dense int8",
            ratio(f"step, {many}: compiled 0 %, 1 token", step.format(many, "40 %, 1 token")), 0.95, 1.2),
    ]  # fmt: skip
    name = f"matrices, {many}: onnxruntime int8"
    if name in ms:
        fastest = min(name, f"{name}, int8 activations", key=lambda one: ms[one])
        rows.insert(3, Row("matrices, 90 %: over onnxruntime int8", ratio(fastest, own.format("90 %")), 4.5, 5.8))
    return rows


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = [header, ["-" * one for one in widths], *rows]
    return "\n".join(
        "| " + " | ".join(f"{cell:{one}}" for cell, one in zip(row, widths, strict=True)) + " |" for row in lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for all figures")
    parser.add_argument("--quick", action="store_true", help="a tiny random model and one round: a smoke test")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cache", type=Path, default=ROOT / "data" / "cache")
    options = parser.parse_args()
    logging.disable(logging.INFO)  # onnxruntime's quantizer has a line for every node
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rounds, sparsities = (1, (0.4, 0.9)) if options.quick else (options.rounds, SPARSITIES)
    few, many = (_backbone(options, blocks) for blocks in ((2, 3) if options.quick else (4, None)))
    labels = [f"{one.decoder.config.num_hidden_layers} blocks" for one in (few, many)]

    # Steps and products.
    with torch.inference_mode():
        contenders = [
            *step_contenders(few.decoder, labels[0], sparsities),
            *step_contenders(many.decoder, labels[1], sparsities),
            *product_contenders(many.decoder, labels[1], sparsities),
        ]
    times = timed([*contenders, *floors_of(contenders)], rounds, 0.001 if options.quick else 0.03)
    ms = {one.name: times[one.name] for one in contenders}
    floors = {one.name: times[f"floor of {one.name}"] for one in contenders}
    lines = [[name, f"{value:.3f}", f"{floors[name]:.3f}", f"{value / floors[name]:.1f}"] for name, value in ms.items()]
    print(table(["milliseconds", "median", "floor", "x floor"], lines), flush=True)
    rows = rows_of(ms, *labels)
    del contenders

    # Whole decisions, the replay side by side, sizes.
    with TemporaryDirectory() as folder:
        measured, more = sessions.measure(Path(folder), few, many, options.quick)
    rows += [Row(*one) for one in more]
    rows += [Row(f"step, {label}, 90 %: from transformers with the same weights", error_of_step(one.decoder, 0.9), 0.3,
                 None, "%", True) for one, label in zip((few, many), labels, strict=True)]  # fmt: skip
    print("\n" + table(["", "figure", "target", "stretch", ""], [row.cells() for row in rows]))
    for name in ("onnxruntime", "openvino", "llama_cpp"):
        if not _installed(name):
            print(f"no rows of {name}: it is not installed")
    if options.json is not None:
        facts = {"milliseconds": ms, "floor_ms": floors, "sessions": measured, "machine": _machine(),
                 "rows": [{**asdict(row), "verdict": row.verdict} for row in rows]}  # fmt: skip
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


def _backbone(options: argparse.Namespace, layers: int | None) -> Any:
    """SmolLM2 with its real weights, or a tiny random Llama."""
    if options.quick:
        return RandomBackbone(name="tiny", settings=SMALLEST, seed=0, layers=layers).load()  # type: ignore[call-arg]
    settings = yaml.safe_load((ROOT / "conf/model/smollm2.yaml").read_text())
    del settings["_target_"]
    return WheelBackbone(**{**settings, "folder": options.cache / "backbones", "layers": layers}).load()


def _bf16(decoder: nn.Module) -> nn.Module:
    return copy.deepcopy(decoder).to(torch.bfloat16)


def _percent(sparsity: float) -> str:
    return f"{100 * sparsity:g} %"


def _installed(name: str) -> bool:
    return find_spec(name) is not None


def _machine() -> dict[str, str]:
    names = ("torch", "transformers", "numba", "numpy", "onnxruntime", "openvino", "llama_cpp")
    distributions = metadata.packages_distributions()
    versions = {name: metadata.version(distributions[name][0]) for name in names if _installed(name)}
    return {"processor": _processor(), "instructions": chosen("auto"), **versions}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
