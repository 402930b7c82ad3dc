"""The tables of a comparison page as HTML: groups with dense models and baselines, single runs, and runs left out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from edgenetllm.compare.page_groups import Group
from edgenetllm.compare.page_sections import Section
from edgenetllm.compare.page_series import DENSE, Series
from edgenetllm.compare.page_text import estimate, megabytes, metric_name, row_id, share
from edgenetllm.compare.retention_table import CONTROL
from edgenetllm.compare.run_facts import bundle_number, folder_name, main_metric, method_of, recovery_of
from edgenetllm.compare.runs import FinishedRun, LeftOut
from edgenetllm.report.results import Estimate, Results, metric_key


@dataclass(frozen=True)
class Cell:
    """What a cell shows (HTML), and the number by which it is sorted; a text is sorted by itself."""

    html: str
    value: float | None = None
    number: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Row:
    """`model`: empty where the row belongs to every model."""

    cells: Sequence[Cell]
    model: str = ""
    key: str = ""
    kind: str = ""


DIFFERS = "differs in"  # header: what sets a group apart where the other columns do not
EMPTY = Cell('<span class="none">–</span>', None, True)


def group_table(section: Section, series: Sequence[Series]) -> str:
    """A row per group, per dense model and encoding, and per baseline."""
    engines = list(dict.fromkeys(name for group in (*section.groups, *section.dense) for name in group.latency))
    several = _has_variants(section)
    header = [
        "model",
        "policy",
        *([DIFFERS] if several else []),
        "sparsity [%]",
        "seeds",
        metric_name(section.metric),
        "retention [% of dense] ↑",
    ]
    for engine in engines:
        header += [f"{engine}, one decision [ms] ↓", f"{engine}, × dense ↓"]
    header += ["size [MB] ↓", "size, × dense int8 ↓", "values", "interval over"]
    rows = []
    for group in section.dense:
        rows.append(_group_row(section, group, "dense fp32", DENSE, engines, "fp32"))
        rows += [_unplayed(group, kind, len(engines), several) for kind in ("fp16", "int8") if kind in group.sizes]
    for one in series:
        rows += [_group_row(section, group, one.policy, one.look.color, engines, "bundle") for group in one.groups]
    sign = -1 if section.metric.higher_is_better else 1
    for name, figures in sorted(section.baselines.items(), key=lambda item: sign * item[1].mean):
        named = [_text(""), _text(name), *([_text("")] if several else [])]
        cells = [*named, EMPTY, EMPTY, _estimate(figures), *[EMPTY] * (1 + 2 * len(engines) + 2)]
        rows.append(Row([*cells, _text(""), _text("episodes")], kind="baseline"))
    return _table("groups", header, rows)


def _group_row(section: Section, group: Group, name: str, color: str, engines: Sequence[str], size: str) -> Row:
    retention = group.figures.retention
    seeds = ", ".join(map(str, group.seeds))
    swatch = f'<i class="swatch" style="background:{color}"></i>'
    cells = [
        _text(group.model),
        Cell(f"{swatch}{escape(name)}"),
        *([_text(group.variant)] if _has_variants(section) else []),
        Cell(f"{100 * group.sparsity:g}", group.sparsity, True),
        Cell(str(len(group.seeds)), len(group.seeds), True, f"training seeds {seeds}"),
        _estimate(group.figures.metric),
        EMPTY if group.policy == "dense" else Cell(share(retention), retention.mean if retention else None, True),
    ]
    for engine in engines:
        found = group.latency.get(engine)
        if found is None:
            cells += [EMPTY, EMPTY]
            continue
        hint = f"from {found.ends[0]:.4g} to {found.ends[1]:.4g} ms in {found.runs} runs" if found.runs > 1 else ""
        ratio = 1.0 if group.policy == "dense" else found.to_dense
        cells += [Cell(f"{found.ms:.2f}", found.ms, True, hint), _number(ratio, "{:.2f}")]
    cells += _sizes(group, size)
    cells += [_text(group.values or ("fp32" if group.policy == "dense" else "")), _text(group.figures.basis)]
    return Row(cells, group.model, row_id(section, group), "dense" if group.policy == "dense" else "sparse")


def _has_variants(section: Section) -> bool:
    return any(group.variant for group in (*section.groups, *section.dense))


def _unplayed(group: Group, kind: str, engines: int, several: bool) -> Row:
    """A dense encoding of which only the size is known."""
    name = Cell(f'<i class="swatch hollow" style="border-color:{DENSE}"></i>dense {kind}')
    blank = Cell('<span class="none">not played</span>', None, True)
    named = [_text(group.model), name, *([_text(group.variant)] if several else [])]
    cells = [*named, Cell("0", 0, True), EMPTY, blank, *[EMPTY] * (1 + 2 * engines)]
    return Row([*cells, *_sizes(group, kind), _text(kind), _text("")], group.model, kind="dense")


def _sizes(group: Group, kind: str) -> list[Cell]:
    size, int8 = group.sizes.get(kind), group.sizes.get("int8")
    if size is None:
        return [EMPTY, EMPTY]
    return [Cell(megabytes(size), size, True), _number(size / int8 if int8 else None, "{:.2f}")]


def run_table(section: Section, out: Path) -> str:
    """A row per run, oldest first, linked from the folder of the page `out`."""
    metrics = section.runs[-1].results.metrics
    engines = sorted({name for run in section.runs for name in run.results.decision_ms})
    several = _has_variants(section)
    header = ["run", "started", "stage", "model", "method", "recovery", *([DIFFERS] if several else [])]
    header += ["sparsity [%]", "seed"]
    header += [f"{'' if number else 'sparse: '}{metric_name(metric)}" for number, metric in enumerate(metrics.values())]
    header += ["retention [% of dense] ↑", *(f"{name} [ms] ↓" for name in engines), "bundle [MB] ↓", "in the means"]
    rows = []
    for run in section.runs:
        results, model = run.results, section.grouped.models[run.folder]
        cells = [_link(run.folder, out), _text((run.started or "")[:19].replace("T", " ")), _text(results.stage)]
        cells += [_text(model), _text(CONTROL if results.sparsity == 1 else method_of(results) or "dense")]
        cells.append(_text(recovery_of(results) or ""))
        cells += [_text(section.grouped.variant_of(run))] if several else []
        cells.append(Cell(f"{100 * results.sparsity:g}", results.sparsity, True))
        cells.append(Cell(str(results.seed), results.seed, True))
        cells += [_estimate(results.policies["sparse"].get(key)) for key in metrics]
        cells.append(_retention(results))
        for name in engines:
            time = results.decision_ms.get(name)
            hint = f"99th percentile {time.p99:.4g} ms" if time else ""
            cells.append(Cell(f"{time.median:.2f}", time.median, True, hint) if time else EMPTY)
        size = bundle_number(results, "bytes")
        cells.append(Cell(megabytes(size), size, True) if size else EMPTY)
        counts = _counts(section, run)
        cells.append(_text(counts))
        rows.append(Row(cells, model, kind="" if counts == "yes" else "older"))
    return _table("runs", header, rows)


def _counts(section: Section, run: FinishedRun) -> str:
    """The note that says if the figures of a run are in the means of a group."""
    last = section.grouped.repeats.get(run.folder)
    if last is not None:
        return f"no: {last.name} repeats it"
    if any(run.folder in group.runs for group in (*section.groups, *section.dense)):
        return "yes"
    return "no: unpruned, and a later run has the same dense parent"


def left_out_table(left_out: Iterable[LeftOut], out: Path) -> str:
    """Every run that no figure was taken from, and why."""
    rows = [Row([_link(run.folder, out), _text(run.reason)]) for run in left_out]
    return _table("left-out", ["run", "why it is left out"], rows)


def _table(name: str, header: Sequence[str], rows: Sequence[Row]) -> str:
    numbers = [bool(rows) and any(row.cells[number].number for row in rows) for number in range(len(header))]
    heads = "".join(
        f'<th scope="col" class="{"number" if number else "text"}" aria-sort="none">'
        f'<button type="button">{escape(title)}</button></th>'
        for title, number in zip(header, numbers, strict=True)
    )
    body = "\n".join(map(_row, rows))
    return f'<div class="scroll"><table class="{name}"><thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _row(row: Row) -> str:
    attributes: Mapping[str, str] = {"id": row.key, "class": row.kind, "data-model": row.model}
    given = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items() if value)
    return f"<tr{given}>{''.join(map(_cell, row.cells))}</tr>"


def _cell(cell: Cell) -> str:
    given = ' class="number"' if cell.number else ""
    given += f' data-value="{cell.value!r}"' if cell.value is not None else ""
    given += f' title="{escape(cell.hint)}"' if cell.hint else ""
    return f"<td{given}>{cell.html}</td>"


def _text(text: str) -> Cell:
    return Cell(escape(text))


def _number(value: float | None, form: str) -> Cell:
    return EMPTY if value is None else Cell(form.format(value), value, True)


def _estimate(figures: Estimate | None) -> Cell:
    return EMPTY if figures is None else Cell(estimate(figures), figures.mean, True)


def _retention(results: Results) -> Cell:
    kept = results.retention.get(metric_key(main_metric(results)))
    return Cell(share(kept), kept.mean if kept else None, True)


def _link(folder: Path, out: Path) -> Cell:
    target = quote(os.path.relpath(folder.resolve(), out.resolve().parent)) + "/"
    return Cell(f'<a href="{escape(target)}">{escape(folder_name(folder))}</a>')
