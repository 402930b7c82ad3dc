"""Heat maps of the pruned matrices: decoder blocks across, kinds of matrices down; dark is where more was lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from edgenetllm.plotting import save
from edgenetllm.report.layers import LayerRow

PANELS = {"sparsity": "Blues", "relative output error": "magma_r", "output cosine": "magma"}
CELL_INCHES = 0.27
MISSING = "#E4E4E4"

FloatArray = npt.NDArray[np.float64]


def layer_map(rows: Sequence[LayerRow], path: Path | str) -> None:
    """Three panels (sparsity, error on a log scale, cosine) over the matrices that lie in a block.

    A panel of which nothing is known is left out, and a matrix that is not known is grey.
    """
    grids = _grids(rows)
    if not grids:
        return
    kinds, blocks = _places(rows)
    width = min(max(2.6 + CELL_INCHES * len(blocks), 5.4), 16.0)
    heights = 0.62 + 0.25 * len(kinds)
    figure = Figure(figsize=(width, 0.35 + heights * len(grids)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(grids), 1, sharex=True))
    for axes, (name, grid) in zip(panels, grids.items(), strict=True):
        _panel(axes, name, grid)
        axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
    step = -(-len(blocks) // 20)
    panels[-1].set_xticks(range(0, len(blocks), step), [str(block) for block in blocks[::step]], fontsize=8)
    panels[-1].set_xlabel("decoder block")
    save(figure, path)


def _places(rows: Sequence[LayerRow]) -> tuple[list[str], list[int]]:
    """Kinds and blocks of the matrices that lie in a block."""
    inside = [(row.kind, row.block) for row in rows if row.block is not None]
    return list(dict.fromkeys(kind for kind, _ in inside)), sorted({block for _, block in inside})


def _grids(rows: Sequence[LayerRow]) -> dict[str, FloatArray]:
    """Panel -> (kinds, blocks), NaN where a matrix has no such figure; panels without any figure are left out."""
    kinds, blocks = _places(rows)
    grids = {name: np.full((len(kinds), len(blocks)), np.nan) for name in PANELS}
    for row in rows:
        if row.block is not None:
            figures = (row.sparsity, row.figures.error, row.figures.cosine)
            for name, value in zip(PANELS, figures, strict=True):
                if value is not None:
                    grids[name][kinds.index(row.kind), blocks.index(row.block)] = value
    return {name: grid for name, grid in grids.items() if np.isfinite(grid).any()}


def _panel(axes: Axes, name: str, grid: FloatArray) -> None:
    """One heat map with its colour bar; zero error (nothing was pruned) takes the lightest colour of the log scale."""
    known = grid[np.isfinite(grid)]
    norm = _norm(name, known)
    shown = np.where(grid <= 0, norm.vmin or 0.0, grid) if isinstance(norm, LogNorm) else grid
    colours = colormaps[PANELS[name]].with_extremes(bad=MISSING)
    image = axes.imshow(np.ma.masked_invalid(shown), aspect="auto", interpolation="nearest", cmap=colours, norm=norm)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.015, aspect=12, fraction=0.08)
    bar.ax.tick_params(labelsize=8, which="both")
    bar.outline.set_visible(False)
    style = ".1%" if name == "sparsity" else ".3g"
    low, high, mean = (f"{value:{style}}" for value in (known.min(), known.max(), known.mean()))
    axes.set_title(f"{name}: {low if low == high else f'{low} to {high}, mean {mean}'}", fontsize=9, loc="left")
    # White lines between the cells, no frame.
    axes.set_xticks(np.arange(-0.5, grid.shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, grid.shape[0]), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _norm(name: str, known: FloatArray) -> Normalize:
    """The span of the figures; sparsities that hardly differ are not blown up to look as if they did."""
    low, high = float(known.min()), float(known.max())
    if name == "relative output error":
        positive = known[known > 0]
        low = float(positive.min()) if len(positive) else 0.0
        return LogNorm(low / 1.2, high * 1.2) if low > 0 else Normalize(0, 1)
    reach = 0.05 if name == "sparsity" else 1e-3
    middle, half = (low + high) / 2, max((high - low) / 2, reach)
    return Normalize(middle - half, middle + half)
