"""A retention study as Markdown: retention and metric by method and sparsity, the controls, and what was read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgenetllm.compare.retention_study import Cell, Study
from edgenetllm.report.markdown import markdown_table
from edgenetllm.report.results import Estimate

LOSSLESS = 0.995  # retention from which pruning counts as free
CONTROL = "100 % sparse"


def named(method: str | None, recovery: str | None, variant: str = "") -> str:
    """`wanda + specialise`, `wanda (pruning.windows=8)`; the control has no method."""
    return f"{method or CONTROL}{f' + {recovery}' if recovery else ''}{f' ({variant})' if variant else ''}"


def study_markdown(study: Study) -> str:
    """The whole report. Every table is made from the study's JSON alone."""
    metric = study.metric
    unit = f" [{metric.unit}]" if metric.unit else ""
    column = f"{metric.label}{unit} {'↑' if metric.higher_is_better else '↓'}"
    sparsities = sorted({cell.sparsity for cell in study.cells})
    lines = [f"# Retention of {metric.label}: {study.task} on {study.data}, {study.model}", "", _how(study), ""]
    if study.cells:
        header = ["method", *(percent(sparsity) for sparsity in sparsities)]
        lines += ["Retention, sparse over dense:", ""]
        lines += [*markdown_table(header, _rows(study, sparsities, retention_text)), ""]
        lines += [f"Highest sparsity with a retention of at least {100 * LOSSLESS:g} %:", ""]
        lines += [*(f"- {line}" for line in lossless_lines(study)), ""]
        lines += [f"{column} of the sparse models:", ""]
        lines += [*markdown_table(header, _rows(study, sparsities, lambda cell: _metric(cell.metric))), ""]
    lines += ["What stands beside them:", ""]
    lines += [*markdown_table(["policy", column, "retention", "training seeds"], _beside(study)), ""]
    lines += [*(f"- {note}" for note in study.notes), *([""] if study.notes else [])]
    lines += [f"Read from {_count(len(study.runs), 'run')}:", ""]
    rows = [
        [run.folder, run.stage, named(run.method, run.recovery, run.variant) if run.method or run.sparsity == 1 else "dense",
         percent(run.sparsity), str(run.seed)]
        for run in study.runs
    ]  # fmt: skip
    lines += markdown_table(["run", "stage", "method", "sparsity", "seed"], rows, left=3)
    return "\n".join(lines) + "\n"


def lossless_lines(study: Study) -> list[str]:
    """One line per method: the highest sparsity that keeps LOSSLESS of the dense parent in the mean."""
    lines = []
    for name, cells in series(study).items():
        known = [(cell.sparsity, cell.retention.mean) for cell in cells if cell.retention is not None]
        kept = [sparsity for sparsity, share in known if share >= LOSSLESS]
        below = [sparsity for sparsity, share in known if share < LOSSLESS and kept and sparsity < max(kept)]
        if not known:
            text = "undefined"
        elif not kept:
            best = max(known, key=lambda point: point[1])
            text = f"none measured (best: {100 * best[1]:.1f} % at {percent(best[0])})"
        else:
            text = percent(max(kept))
            text += f" (but less at {', '.join(map(percent, below))})" if below else ""
        lines.append(f"{name}: {text}")
    return lines


def series(study: Study) -> dict[str, list[Cell]]:
    """Name of method, recovery and variant -> its cells by sparsity."""
    found: dict[str, list[Cell]] = {}
    for cell in study.cells:
        found.setdefault(named(cell.method, cell.recovery, cell.variant), []).append(cell)
    return found


def retention_text(cell: Cell) -> str:
    """`99.4 % [97.7, 101.1], 3 seeds`"""
    seeds = _count(len(cell.seeds), "seed")
    if cell.retention is None:
        return f"undefined, {seeds}"
    mean, low, high = (f"{100 * value:.1f}" for value in (cell.retention.mean, *cell.retention.ci95))
    return f"{mean} % [{low}, {high}], {seeds}"


def percent(share: float) -> str:
    return f"{100 * share:g} %"


def _how(study: Study) -> str:
    text = (
        f"Mean [95 % interval] over {_count(study.episodes, 'test episode')}, the same for every policy, and over the "
        "training seeds of a cell. Intervals draw seeds and episodes again, independently of each other"
    )
    counts = {len(cell.seeds) for cell in (*study.cells, *study.controls)}
    if 1 in counts:
        text += "; with 1 seed they are about the episodes alone, and say nothing about another training"
    if any(1 < count < 6 for count in counts):
        text += "; with so few seeds they are narrower than they should be"
    text += "."
    if study.metric.higher_is_better:
        return text
    return f"{text} Lower is better, so retention is dense over sparse."


def _rows(study: Study, sparsities: Sequence[float], text: Callable[[Cell], str]) -> list[list[str]]:
    rows = []
    for name, cells in series(study).items():
        by_sparsity = {cell.sparsity: text(cell) for cell in cells}
        rows.append([name, *(by_sparsity.get(sparsity, "–") for sparsity in sparsities)])
    return rows


def _beside(study: Study) -> list[list[str]]:
    """Dense, the controls (whether measured or not), then baselines and bounds."""
    dense, *others = study.references
    rows = [["dense", _metric(dense.metric), "100 %", _seeds(dense.seeds)]]
    recoveries = sorted({cell.recovery for cell in (*study.cells, *study.controls) if cell.recovery})
    for recovery in (None, *(recoveries or ["recovery"])):
        measured = [cell for cell in study.controls if cell.recovery == recovery]
        for cell in measured:
            figures = [_metric(cell.metric), retention_text(cell).rpartition(",")[0], _seeds(cell.seeds)]
            rows.append([named(None, recovery, cell.variant), *figures])
        if not measured:
            rows.append([named(None, recovery), "not measured", "not measured", "–"])
    return rows + [[other.name, _metric(other.metric), "–", "–"] for other in others]


def _metric(estimate: Estimate) -> str:
    mean, low, high = (f"{value:.3f}" for value in (estimate.mean, *estimate.ci95))
    return f"{mean} [{low}, {high}]" if estimate.n > 1 else mean


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
