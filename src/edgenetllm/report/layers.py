"""The effect of pruning on each matrix: its zeros, and how far its output on the calibration tokens moved.

From `pruning["layers"]` of the results: name -> zeros, weights, error (squared error of the layer's output, relative to the
dense output) and cosine (mean cosine between dense and pruned output), the last two null where nothing was calibrated.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgenetllm.report.facts import LayerFigures
from edgenetllm.report.results import Results
from edgenetllm.report.text import markdown_line, markdown_table


@dataclass(frozen=True)
class LayerRow:
    """A pruned matrix: where it stands in the model, and its figures."""

    name: str
    block: int | None  # None: outside the decoder blocks
    kind: str  # the same in every block: q_proj; outside of them, the name
    figures: LayerFigures

    @property
    def sparsity(self) -> float:
        return self.figures.zeros / self.figures.weights


def layer_rows(results: Results) -> list[LayerRow]:
    """The pruned matrices in the order of the model; none of a run without."""
    layers: Any = (results.pruning or {}).get("layers") or {}
    figures = {name: LayerFigures.model_validate(one) for name, one in layers.items()}
    places = {name: place_of(name) for name in figures}
    endings: dict[str, set[str]] = {}  # q_proj -> {self_attn.q_proj}; GPT-2's c_proj is both attn.c_proj and mlp.c_proj
    for _, kind in places.values():
        endings.setdefault(kind.rpartition(".")[2], set()).add(kind)
    rows = []
    for name, (block, kind) in places.items():
        short = kind.rpartition(".")[2]
        clear = block is not None and len(endings[short]) == 1
        rows.append(LayerRow(name, block, short if clear else kind, figures[name]))
    return rows


def place_of(name: str) -> tuple[int | None, str]:
    """Decoder block and path in it: `layers.3.self_attn.q_proj.base_layer` is (3, `self_attn.q_proj`).

    A matrix outside the decoder blocks, such as the task's encoder, has no block.
    """
    name = name.removesuffix(".weight").removesuffix(".base_layer")
    in_block = re.match(r"(?:model\.|transformer\.|decoder\.)*(?:layers|h)\.(\d{1,4})\.(.+)$", name)
    return (int(in_block[1]), in_block[2]) if in_block else (None, name)


def error_line(rows: list[LayerRow]) -> str | None:
    """Mean error over the matrices, and the worst one by name; None where no error is known."""
    known = [row for row in rows if row.figures.error is not None]
    if not known:
        return None
    worst = max(known, key=lambda row: row.figures.error or 0.0)
    mean = _mean(rows, lambda row: row.figures.error)
    return f"mean output error {_figure(mean)}, worst {_figure(worst.figures.error)} in {worst.name}"


def layers_markdown(results: Results) -> str:
    """A short summary, means per kind, then one row per matrix."""
    rows = layer_rows(results)
    pruning, errors = results.pruning or {}, error_line(rows)
    zeros, weights = sum(row.figures.zeros for row in rows), sum(row.figures.weights for row in rows)
    title = (
        f"{results.task} on {results.data}: {results.model}, {pruning.get('label', pruning.get('method'))} at sparsity "
        f"{results.sparsity:.0%}: {zeros:,} of {weights:,} weights are zero ({zeros / max(weights, 1):.2%}) in {len(rows)} "
        "matrices"
    )
    lines = [
        markdown_line(title),
        *([] if errors is None else ["", f"- {markdown_line(errors)}"]),
        "",
        "Error: squared error of the output on calibration tokens, relative to the dense output. Cosine: mean, between "
        "dense and pruned output.",
        "",
    ]
    by_kind: dict[str, list[LayerRow]] = {}
    for row in rows:
        by_kind.setdefault(row.kind, []).append(row)
    figures = ["zeros", "sparsity", "error", "cosine"]
    kinds = ([kind, str(len(members)), *_means(members)] for kind, members in by_kind.items())
    single = ([row.kind, "–" if row.block is None else str(row.block), *_means([row])] for row in rows)
    lines += [*markdown_table(["kind, mean", "matrices", *figures], kinds), ""]
    return "\n".join([*lines, *markdown_table(["matrix", "block", *figures], single)]) + "\n"


def _means(rows: list[LayerRow]) -> list[str]:
    """Cells: zeros in sum, sparsity over all weights, error and cosine in mean over the matrices."""
    zeros, weights = sum(row.figures.zeros for row in rows), sum(row.figures.weights for row in rows)
    error, cosine = _mean(rows, lambda row: row.figures.error), _mean(rows, lambda row: row.figures.cosine)
    return [f"{zeros:,}", f"{zeros / weights:.1%}", _figure(error), _figure(cosine)]


def _mean(rows: list[LayerRow], figure: Callable[[LayerRow], float | None]) -> float | None:
    known = [value for value in map(figure, rows) if value is not None]
    return float(np.mean(known)) if known else None


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
