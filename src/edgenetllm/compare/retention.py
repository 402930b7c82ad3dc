"""`python -m edgenetllm.compare.retention FOLDER... --out docs/retention_abr`: what pruning costs, method by method.

Reads every finished train and prune run below the folders (of one task, data set and adaptation; any pruning, recovery,
sparsity and training seed) and writes OUT.md, OUT.png, and OUT.json, from which `--redraw OUT.json` makes the others again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edgenetllm import console
from edgenetllm.compare.charts import quality_chart
from edgenetllm.compare.png_chart import draw_png
from edgenetllm.compare.runs import named
from edgenetllm.compare.series import Series, make_series
from edgenetllm.compare.study import Cell, Study, make_study
from edgenetllm.files import write_atomic
from edgenetllm.printable import say
from edgenetllm.report.text import (
    count,
    estimate_text,
    markdown_line,
    markdown_table,
    metric_name,
    percent,
    retention_text,
)

LOSSLESS = 0.995  # retention from which pruning counts as free


def draw_study(study: Study, path: Path | str) -> None:
    """The metric over sparsity, a line per method and recovery, between dense model, controls and baselines."""
    dense, *others = study.references
    series = make_series([*study.cells, *study.controls])
    chart = quality_chart(study.metric, series, dense.metric, {other.name: other.metric for other in others})
    counts = sorted({len(cell.seeds) for cell in (*study.cells, *study.controls)} or {len(dense.seeds)})
    seeds = count(counts[-1], "training seed")
    seeds = seeds if counts[0] == counts[-1] else f"{counts[0]} to {seeds}"
    title = f"{study.task} on {study.data}, {study.model}: mean over {study.episodes} test episodes and {seeds}"
    draw_png(chart, title, study.metric, dense.metric.mean, path)


def study_markdown(study: Study) -> str:
    """The whole report. Every table is made from the study's JSON alone."""
    series = make_series(study.cells)
    sparsities = sorted({cell.sparsity for cell in study.cells})
    column = metric_name(study.metric)
    title = f"# Retention of {study.metric.label}: {study.task} on {study.data}, {study.model}"
    lines = [markdown_line(title), "", _how(study), ""]

    def table(text: Callable[[Cell], str]) -> list[str]:
        """A row per series, a column per sparsity."""
        rows = []
        for one in series:
            texts = {cell.sparsity: text(cell) for cell in one.groups}
            rows.append([one.name, *(texts.get(sparsity, "–") for sparsity in sparsities)])
        return [*markdown_table(["method", *map(percent, sparsities)], rows), ""]

    # The sparse models: retention, lossless sparsity and metric.
    if series:
        lines += ["Retention, sparse over dense:", ""]
        lines += table(lambda cell: f"{retention_text(cell.retention)}, {count(len(cell.seeds), 'seed')}")
        lines += [f"Highest sparsity with a retention of at least {100 * LOSSLESS:g} %:", ""]
        lines += [*(f"- {markdown_line(one.name)}: {_lossless(one)}" for one in series), ""]
        lines += [f"{column} of the sparse models:", ""]
        lines += table(lambda cell: estimate_text(cell.metric))
    # Dense model, controls and baselines, then the notes.
    lines += ["For comparison:", ""]
    lines += [*markdown_table(["policy", column, "retention", "training seeds"], _references(study)), ""]
    lines += [*(f"- {markdown_line(note)}" for note in study.notes), *([""] if study.notes else [])]
    # The runs that the figures come from.
    lines += [f"Read from {count(len(study.runs), 'run')}:", ""]
    rows = []
    for run in study.runs:
        name = named(run.method, run.recovery, run.variant) if run.method or run.sparsity == 1 else "dense"
        rows.append([run.folder, run.stage, name, percent(run.sparsity), str(run.seed)])
    lines += markdown_table(["run", "stage", "method", "sparsity", "seed"], rows, left=3)
    return "\n".join(lines) + "\n"


def _lossless(series: Series[Cell]) -> str:
    """The highest sparsity that keeps LOSSLESS of the dense parent in the mean."""
    known = [(cell.sparsity, cell.retention.mean) for cell in series.groups if cell.retention is not None]
    lossless = [sparsity for sparsity, retention in known if retention >= LOSSLESS]
    if not known:
        return "undefined"
    if not lossless:
        sparsity, retention = max(known, key=lambda point: point[1])
        return f"none measured (best: {100 * retention:.1f} % at {percent(sparsity)})"
    below = [sparsity for sparsity, retention in known if retention < LOSSLESS and sparsity < max(lossless)]
    return percent(max(lossless)) + (f" (but less at {', '.join(map(percent, below))})" if below else "")


def _how(study: Study) -> str:
    text = (
        f"Mean [95 % interval] over {count(study.episodes, 'test episode')}, the same for every policy, and over the "
        "training seeds of a cell. Intervals draw seeds and episodes again, independently of each other"
    )
    counts = {len(cell.seeds) for cell in (*study.cells, *study.controls)}
    if 1 in counts:
        text += "; with 1 seed they are about the episodes alone, and say nothing about another training"
    if any(1 < number < 6 for number in counts):
        text += "; with so few seeds they are narrower than they should be"
    return text + ("." if study.metric.higher_is_better else ". Lower is better, so retention is dense over sparse.")


def _references(study: Study) -> list[list[str]]:
    """Dense, the controls (whether measured or not), then baselines and bounds."""

    def row(name: str, cell: Cell) -> list[str]:
        return [name, estimate_text(cell.metric), retention_text(cell.retention), _seeds(cell.seeds)]

    dense, *others = study.references
    rows = [["dense", estimate_text(dense.metric), "100 %", _seeds(dense.seeds)]]
    recoveries = sorted({cell.recovery for cell in (*study.cells, *study.controls) if cell.recovery})
    for recovery in (None, *(recoveries or ["recovery"])):
        measured = [row(cell.line, cell) for cell in study.controls if cell.recovery == recovery]
        rows += measured or [[named(None, recovery), "not measured", "not measured", "–"]]
    return rows + [[other.name, estimate_text(other.metric), "–", "–"] for other in others]


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def write_study(study: Study, out: str) -> list[Path]:
    """Write OUT.md and OUT.png, made from nothing but the study."""
    text, picture = Path(f"{out}.md"), Path(f"{out}.png")
    write_atomic(text, study_markdown(study).encode())
    draw_study(study, picture)
    return [text, picture]


@console.with_exit_code
def main(arguments: list[str] | None = None) -> None:
    """Write a study and print where. Raises UserError when the runs make none."""
    # The arguments, of which some exclude each other.
    parser = argparse.ArgumentParser(prog="python -m edgenetllm.compare.retention", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER", help="runs are looked for below it")
    parser.add_argument("--out", help="where to write, without ending: docs/retention_abr")
    parser.add_argument(
        "--redraw", type=Path, metavar="OUT.json", help="make OUT.md and OUT.png again, without the runs"
    )
    options = parser.parse_args(arguments)
    if options.redraw is None and not (options.folders and options.out):
        parser.error("give folders and --out, or --redraw")
    if options.redraw is not None and (options.folders or options.out):
        parser.error("--redraw takes neither folders nor --out")
    # A study read from its JSON, or made from runs and stored.
    if options.redraw is not None:
        written = write_study(Study.load(options.redraw), str(options.redraw).removesuffix(".json"))
    else:
        study = make_study(options.folders)
        for note in study.notes:
            say(f"note: {note}", file=sys.stderr)
        study.save(f"{options.out}.json")
        written = [Path(f"{options.out}.json"), *write_study(study, options.out)]
    say(*written)


if __name__ == "__main__":
    console.program(main)
