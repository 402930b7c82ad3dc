"""The tables of a comparison page as HTML: groups with dense models and baselines, single runs, and runs left out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from edgenetllm.compare.runs import FinishedRun, LeftOut, bundle_number, cell_of, folder_name, named
from edgenetllm.compare.sections import EngineLatency, Group, Section
from edgenetllm.compare.series import DENSE, Series
from edgenetllm.report.bootstrap import Estimate, Retention
from edgenetllm.report.text import estimate_text, html_text, megabytes, metric_name, retention_text


@dataclass(frozen=True)
class Cell:
    """A cell: the HTML that it shows, and the number by which it is sorted; a text is sorted by itself."""

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


def group_table(section: Section, series: Sequence[Series[Group]]) -> str:
    """A row per group, per dense model and encoding, and per baseline."""
    engines = list(dict.fromkeys(name for group in (*section.groups, *section.dense) for name in group.latency))
    header = ["model", "policy", DIFFERS, "sparsity [%]", "seeds", metric_name(section.metric)]
    header.append("retention [% of dense] ↑")
    for engine in engines:
        header += [f"{engine}, one decision [ms] ↓", f"{engine}, × dense ↓"]
    header += ["size [MB] ↓", "size, × dense int8 ↓", "values", "interval over"]
    rows = []
    for group in section.dense:
        rows.append(_group_row(section, group, "dense fp32", DENSE, engines, "fp32"))
        rows += [_unplayed(group, kind, engines) for kind in ("fp16", "int8") if kind in group.sizes]
    for one in series:
        rows += [_group_row(section, group, one.policy, one.look.color, engines, "bundle") for group in one.groups]
    sign = -1 if section.metric.higher_is_better else 1
    for name, figures in sorted(section.baselines.items(), key=lambda item: sign * item[1].mean):
        cells = [_text(""), _text(name), _text(""), EMPTY, EMPTY, _estimate(figures), *[EMPTY] * (3 + 2 * len(engines))]
        rows.append(Row([*cells, _text(""), _text("episodes")], kind="baseline"))
    return _table("groups", header, rows)


def _group_row(section: Section, group: Group, name: str, color: str, engines: Sequence[str], size: str) -> Row:
    dense = group.policy == "dense"
    seeds = ", ".join(map(str, group.seeds))
    cells = [
        _text(group.model),
        Cell(f'<i class="swatch" style="background:{color}"></i>{html_text(name)}'),
        _text(group.variant),
        _percent(group.sparsity),
        Cell(str(len(group.seeds)), len(group.seeds), True, f"training seeds {seeds}"),
        _estimate(group.metric),
        EMPTY if dense else _retention(group.retention),
    ]
    for engine in engines:
        shown = not dense or engine == "torch"  # the dense model of any other engine has int8 weights
        cells += _latency(group.latency.get(engine) if shown else None, dense)
    cells += [*_sizes(group, size), _text("fp32" if dense else group.values or ""), _text(group.figures.basis)]
    return Row(cells, group.model, section.row_id(group), group.policy)


def _latency(latency: EngineLatency | None, dense: bool) -> list[Cell]:
    """The cells of an engine: milliseconds, and the ratio to its dense model."""
    if latency is None:
        return [EMPTY, EMPTY]
    hint = f"from {latency.ends[0]:.4g} to {latency.ends[1]:.4g} ms in {latency.runs} runs" if latency.runs > 1 else ""
    return [_number(latency.ms, f"{latency.ms:.2f}", hint), _ratio(1.0 if dense else latency.to_dense)]


def _unplayed(group: Group, kind: str, engines: Sequence[str]) -> Row:
    """A dense encoding that was not played: its size, and with int8 the latency in other engines than torch."""
    name = Cell(f'<i class="swatch hollow" style="border-color:{DENSE}"></i>dense {kind}')
    blank = Cell('<span class="none">not played</span>', None, True)
    cells = [_text(group.model), name, _text(group.variant), _percent(0.0), EMPTY, blank, EMPTY]
    for engine in engines:
        cells += _latency(group.latency.get(engine) if kind == "int8" and engine != "torch" else None, True)
    return Row([*cells, *_sizes(group, kind), _text(kind), _text("")], group.model, kind="dense")


def _sizes(group: Group, kind: str) -> list[Cell]:
    size, int8 = group.sizes.get(kind), group.sizes.get("int8")
    return [EMPTY, EMPTY] if size is None else [_megabytes(size), _ratio(size / int8 if int8 else None)]


def run_table(section: Section, out: Path) -> str:
    """A row per run, oldest first, linked from the folder of the page `out`."""
    # The header: columns of every run, then the metrics, then the engines.
    metrics = section.runs[-1].results.metrics
    engines = sorted({name for run in section.runs for name in run.results.decision_ms})
    header = ["run", "started", "stage", "model", "method", "recovery", DIFFERS, "sparsity [%]", "seed"]
    header += [f"{'' if number else 'sparse: '}{metric_name(metric)}" for number, metric in enumerate(metrics.values())]
    header += ["retention [% of dense] ↑", *(f"{name} [ms] ↓" for name in engines), "bundle [MB] ↓", "in the means"]
    # A row in the same order.
    rows = []
    for run in section.runs:
        results, model = run.results, run.results.model
        method, recovery, sparsity = cell_of(results)
        cells = [_link(run.folder, out), _text(run.started[:19].replace("T", " ")), _text(results.stage)]
        cells += [
            _text(model),
            _text(named(method, None) if method or sparsity == 1 else "dense"),
            _text(recovery or ""),
        ]
        cells += [_text(section.grouped.variant_of(run)), _percent(results.sparsity)]
        cells.append(_number(results.seed, str(results.seed)))
        cells += [_estimate(results.policies["sparse"].get(key)) for key in metrics]
        cells.append(_retention(results.retention.get(results.key)))
        for name in engines:
            time = results.decision_ms.get(name)
            hint = f"99th percentile {time.p99:.4g} ms" if time else ""
            cells.append(_number(time.median, f"{time.median:.2f}", hint) if time else EMPTY)
        size, counts = bundle_number(results, "bytes"), _counts(section, run)
        cells += [_megabytes(size) if size else EMPTY, _text(counts)]
        rows.append(Row(cells, model, kind="" if counts == "yes" else "older"))
    return _table("runs", header, rows)


def _counts(section: Section, run: FinishedRun) -> str:
    """The note that says if the figures of a run are in the means of a group."""
    last = section.grouped.repeats.get(run.folder)
    if last is not None:
        return f"no: {last.name} repeats it"
    if any(run in group.runs for group in (*section.groups, *section.dense)):
        return "yes"
    return "no: unpruned, and a later run has the same dense parent"


def left_out_table(left_out: Iterable[LeftOut], out: Path) -> str:
    """Every run that no figure was taken from, and why."""
    rows = [Row([_link(run.folder, out), _text(run.reason)]) for run in left_out]
    return _table("left-out", ["run", "why it is left out"], rows)


def _table(name: str, header: Sequence[str], rows: Sequence[Row]) -> str:
    """The table, without the column that says what sets groups apart where nothing does."""
    cells = [[row.cells[number] for row in rows] for number in range(len(header))]
    shown = [number for number, title in enumerate(header) if title != DIFFERS or any(c.html for c in cells[number])]
    numbers = [any(cell.number for cell in column) for column in cells]
    heads = "".join(
        f'<th scope="col" class="{"number" if numbers[place] else "text"}" aria-sort="none">'
        f'<button type="button">{html_text(header[place])}</button></th>'
        for place in shown
    )
    body = "\n".join(_row(row, [row.cells[place] for place in shown]) for row in rows)
    return f'<div class="scroll"><table class="{name}"><thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _row(row: Row, cells: Sequence[Cell]) -> str:
    attributes: Mapping[str, str] = {"id": row.key, "class": row.kind, "data-model": row.model}
    given = "".join(f' {name}="{html_text(value)}"' for name, value in attributes.items() if value)
    return f"<tr{given}>{''.join(map(_cell, cells))}</tr>"


def _cell(cell: Cell) -> str:
    given = ' class="number"' if cell.number else ""
    given += f' data-value="{cell.value!r}"' if cell.value is not None else ""
    given += f' title="{html_text(cell.hint)}"' if cell.hint else ""
    return f"<td{given}>{cell.html}</td>"


def _text(text: str) -> Cell:
    return Cell(html_text(text))


def _number(value: float, text: str, hint: str = "") -> Cell:
    return Cell(text, value, True, hint)


def _percent(fraction: float) -> Cell:
    return _number(fraction, f"{100 * fraction:g}")


def _ratio(value: float | None) -> Cell:
    return EMPTY if value is None else _number(value, f"{value:.2f}")


def _megabytes(size: float) -> Cell:
    return _number(size, megabytes(size))


def _estimate(figures: Estimate | None) -> Cell:
    return EMPTY if figures is None else _number(figures.mean, estimate_text(figures))


def _retention(retention: Retention | None) -> Cell:
    return Cell(retention_text(retention), retention.mean if retention else None, True)


def _link(folder: Path, out: Path) -> Cell:
    target = quote(os.fsencode(os.path.relpath(folder.resolve(), out.resolve().parent))) + "/"
    return Cell(f'<a href="{html_text(target)}">{html_text(folder_name(folder))}</a>')
