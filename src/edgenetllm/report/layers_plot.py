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
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from edgenetllm.plotting import save
from edgenetllm.report.layers import LayerRow

PANELS = {"sparsity": "Blues", "relative output error": "magma_r", "output cosine": "magma"}
CELL_INCHES = 0.27
NUMBER_INCHES = 0.46  # a cell from this width on shows its number
MISSING = "#E4E4E4"

FloatArray = npt.NDArray[np.float64]


def layer_map(rows: Sequence[LayerRow], path: Path | str) -> None:
    """Three panels (sparsity, error on a log scale, cosine) over the matrices that lie in a block.

    A panel of which nothing is known is left out, and a matrix that is not known is grey.
    """
    grids = _grids(rows)
    if not grids:
        return
    kinds = _kinds(rows)
    blocks = _blocks(rows)
    width = min(max(2.6 + CELL_INCHES * len(blocks), 5.4), 16.0)
    heights = 0.62 + 0.25 * len(kinds)
    figure = Figure(figsize=(width, 0.35 + heights * len(grids)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(grids), 1, sharex=True))
    numbers = (width - 2.4) / len(blocks) >= NUMBER_INCHES
    for axes, (name, grid) in zip(panels, grids.items(), strict=True):
        _panel(axes, name, grid, numbers)
        axes.set_yticks(range(len(kinds)), kinds, fontsize=8)
    step = -(-len(blocks) // 20)
    panels[-1].set_xticks(range(0, len(blocks), step), [str(block) for block in blocks[::step]], fontsize=8)
    panels[-1].set_xlabel("decoder block")
    save(figure, path)


def _panel(axes: Axes, name: str, grid: FloatArray, numbers: bool) -> None:
    """One heat map with its colour bar; zero error (nothing was pruned) takes the lightest colour of the log scale."""
    norm = _norm(name, grid[np.isfinite(grid)])
    shown = np.where(grid <= 0, norm.vmin or 0.0, grid) if isinstance(norm, LogNorm) else grid
    colours = colormaps[PANELS[name]].with_extremes(bad=MISSING)
    image = axes.imshow(np.ma.masked_invalid(shown), aspect="auto", interpolation="nearest", cmap=colours, norm=norm)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.015, aspect=12, fraction=0.08)
    decades = np.log10(norm.vmax / norm.vmin) if isinstance(norm, LogNorm) and norm.vmin and norm.vmax else 0.0
    bar.locator = LogLocator(10, subs=(1, 3) if decades < 2 else (1,)) if decades >= 1 else MaxNLocator(4)
    bar.formatter = StrMethodFormatter("{x:.3g}")
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.update_ticks()
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    axes.set_title(f"{name}: {_span(name, grid)}", fontsize=9, loc="left")
    _furnish(axes, grid.shape)
    if numbers:
        _numbers(axes, grid, shown, norm, PANELS[name])


def _kinds(rows: Sequence[LayerRow]) -> list[str]:
    return list(dict.fromkeys(row.kind for row in rows if row.block is not None))


def _blocks(rows: Sequence[LayerRow]) -> list[int]:
    return sorted({row.block for row in rows if row.block is not None})


def _grids(rows: Sequence[LayerRow]) -> dict[str, FloatArray]:
    """Panel -> (kinds, blocks), NaN where a matrix has no such figure; panels without any figure are left out."""
    kinds, blocks = _kinds(rows), _blocks(rows)
    grids = {name: np.full((len(kinds), len(blocks)), np.nan) for name in PANELS}
    for row in rows:
        if row.block is not None:
            figures = (row.sparsity, row.figures.error, row.figures.cosine)
            for name, value in zip(PANELS, figures, strict=True):
                if value is not None:
                    grids[name][kinds.index(row.kind), blocks.index(row.block)] = value
    return {name: grid for name, grid in grids.items() if np.isfinite(grid).any()}


def _norm(name: str, known: FloatArray) -> Normalize:
    """The span of the figures; sparsities that hardly differ are not blown up to look as if they did."""
    low, high = float(known.min()), float(known.max())
    if name == "relative output error":
        positive = known[known > 0]
        if not len(positive):
            return Normalize(0, 1)
        low = float(positive.min())
        return LogNorm(low, high) if high > 1.2 * low else LogNorm(low / 1.5, high * 1.5)
    if name == "sparsity":
        middle, reach = (low + high) / 2, max((high - low) / 2, 0.05)
        return Normalize(max(middle - reach, 0), min(middle + reach, 1))
    return Normalize(low, high) if high - low > 1e-3 else Normalize(low - 1e-3, high + 1e-3)


def _span(name: str, grid: FloatArray) -> str:
    known = grid[np.isfinite(grid)]
    style = ".1%" if name == "sparsity" else ".3g"
    low, high, mean = (f"{value:{style}}" for value in (known.min(), known.max(), known.mean()))
    return low if low == high else f"{low} to {high}, mean {mean}"


def _furnish(axes: Axes, shape: tuple[int, ...]) -> None:
    """White lines between the cells, no frame."""
    axes.set_xticks(np.arange(-0.5, shape[1]), minor=True)
    axes.set_yticks(np.arange(-0.5, shape[0]), minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)


def _numbers(axes: Axes, grid: FloatArray, shown: FloatArray, norm: Normalize, palette: str) -> None:
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            red, green, blue, _ = colormaps[palette](float(norm(shown[row, column])))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            text = f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
