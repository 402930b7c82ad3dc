"""The table that a run prints and that documentation shows, made from `results.json` alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from rich import box
from rich.console import Console
from rich.table import Table

from edgenetllm.plotting import OURS, policy_order
from edgenetllm.report.layers import error_line, layer_rows
from edgenetllm.report.results import Guarded, Placed, Results
from edgenetllm.report.specialisation import specialisation_lines
from edgenetllm.report.text import estimate_text, markdown_line, markdown_table, metric_name, rich_text
from edgenetllm.tasks.names import GUARDED

LOG_WIDTH = 150  # columns of a table that goes to a file or a pipe

NOTICEABLE = 0.95  # of what the dense model takes: more is no gain to speak of


def print_report(
    results: Results,
    paths: Mapping[str, Path] | None = None,
    console: Console | None = None,
) -> None:
    """Print table, retention, sizes and latency, and where things lie (`paths`: what it is -> path)."""
    console = console or Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    table = to_table(results)
    if console.measure(table, options=console.options.update(max_width=1000)).maximum > console.width:
        table = to_table(results, narrow=True)
    console.print(table)
    for line in summary_lines(results):
        console.print(rich_text(line), highlight=False)
    for label, path in (paths or {}).items():
        console.print(rich_text(f"{label}: {path}"), highlight=False, soft_wrap=True)


def to_table(results: Results, narrow: bool = False) -> Table:
    """Rows are policies, columns metrics with their 95 % interval.

    `narrow` puts units and intervals on a line of their own.
    """
    header, rows = _cells(results)
    table = Table(
        title=rich_text(_title(results)), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0 if narrow else 1)
    )
    for number, column in enumerate(header):
        table.add_column(_broken(column, narrow), justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(_broken(cell, narrow) for cell in row), style="bold" if row[0] in OURS else None)
    return table


def _broken(cell: str, narrow: bool) -> str:
    first, bracket, rest = cell.partition(" [") if narrow else (cell, "", "")
    return rich_text(first) + (f"\n{rich_text(bracket.lstrip() + rest)}" if bracket else "")


def to_markdown(results: Results) -> str:
    """The same table and lines as Markdown text, for a document."""
    header, rows = _cells(results)
    lines = [markdown_line(_title(results)), ""]
    lines += markdown_table(header, ([f"**{cell}**" if row[0] in OURS else cell for cell in row] for row in rows))
    lines += ["", *(f"- {markdown_line(line)}" for line in summary_lines(results))]
    return "\n".join(lines) + "\n"


def summary_lines(results: Results) -> list[str]:
    """Retention, error of the layers, recovery, sizes, latency, notes on the data: a line each, where there are any."""
    lines = []
    if results.retention:
        retentions = []
        for key, metric in results.metrics.items():
            ratio = results.retention.get(key)
            text = "undefined (a mean is zero or negative)"
            if ratio is not None:
                text = f"{ratio.mean:.1%} [{ratio.ci95[0]:.1%}, {ratio.ci95[1]:.1%}]"
            retentions.append(f"{metric.label} {text}")
        lines.append("retention, sparse against dense: " + " · ".join(retentions))
    layers = error_line(layer_rows(results))
    if layers is not None:
        lines.append(f"layers: {layers}")
    if results.recovery is not None and results.recovery.get("method") != "none":
        lines.append(recovery_line(results.recovery))
    if results.specialisation is not None:
        lines += specialisation_lines(results.specialisation)
    if results.bundle is not None:
        lines.append(sizes_line(results.bundle))
        lines += shipping_lines(results.bundle)
    if results.decision_ms:
        times = [
            f"{precise(name)} {time.median:.3g} ms (p99 {time.p99:.3g})" for name, time in results.decision_ms.items()
        ]
        lines.append("one decision: " + " · ".join(times))
        lines += gains(results)
    if results.guarded is not None:
        lines.append(guarded_line(results.guarded))
    if results.placement is not None:
        lines += placement_lines(results.placement)
    return lines + [f"note: {note}" for note in results.notes]


def guarded_line(guarded: Guarded) -> str:
    """Who decided in the row `guarded`, and why it was not the model."""
    taken = sum(guarded.events.values())
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in guarded.events.items() if count)
    within = "" if guarded.deadline_ms is None else f", within {guarded.deadline_ms:g} ms"
    faults = ""
    if guarded.faults is not None:
        faults = f"; faults on purpose: {guarded.faults['kind']}, in {guarded.faults['rate']} of the decisions"
    return (
        f"guarded{within}: {guarded.fallback} took {taken:,} of {guarded.decisions:,} decisions ({guarded.share:.2%})"
        f"{f': {reasons}' if reasons else ''}{faults}"
    )


def placement_lines(placement: Placed) -> list[str]:
    """Where decisions were made, and what they cost, a line for each row."""
    engines = [
        f"{ms:.3g} ms {where}"
        for ms, where in ((placement.edge_ms, "at the edge"), (placement.cloud_ms, "in the cloud"))
        if ms is not None
    ]
    link = (
        ""
        if placement.traces is None
        else f", {placement.trace_count} traces of {placement.traces}, loss {placement.loss:.2%}"
    )
    lines = [f"placement {placement.name}: an engine takes {' and '.join(engines)}{link}"]
    for name, row in placement.rows.items():
        asked = "" if placement.name != "adaptive" else f", cloud asked {row.asked:.1%}, in vain {row.late:.1%}"
        lines.append(
            f"{name}: a decision takes {row.latency_ms.median:.4g} ms (p99 {row.latency_ms.p99:.4g}), "
            f"{row.up_bytes:,.0f} bytes up and {row.down_bytes:,.0f} down{asked}"
        )
    return lines


def precise(name: str) -> str:
    """An engine with its policy, as a reader should see it: the dense model of other engines than torch has int8 weights."""
    return f"{name} int8" if name.endswith(" dense") and name != "torch dense" else name


def shipping_lines(bundle: Mapping[str, Any]) -> list[str]:
    """The seconds that the bundle, dense forms and the smallest form take over recorded links, where any was computed."""
    if not bundle.get("shipping"):
        return []
    links = []
    for link, measured in bundle["shipping"].items():
        seconds = {name: "never" if time is None else f"{time:.3g} s" for name, time in measured["seconds"].items()}
        names = dict.fromkeys(["bundle", "dense fp16", "dense int8", "dense int4", bundle["smallest"]])
        links.append(
            f"{link} " + (", ".join(f"{name} {seconds[name]}" for name in names) if seconds else "no traces here")
        )
    return [f"download, median over the traces: {' · '.join(links)}; smallest form: {bundle['smallest']}"]


def gains(results: Results) -> list[str]:
    """The gain of the zeros in size and in time over the same bundle with a dense model in int8, which the engine timed."""
    sparse, dense = (results.decision_ms.get(f"{results.engine} {policy}") for policy in ("sparse", "dense"))
    if results.engine == "torch" or results.bundle is None or sparse is None or dense is None:
        return []
    forms = results.bundle.get("forms")
    dense_bytes = forms["dense int8"] if isinstance(forms, dict) else results.bundle["dense_int8_bytes"]
    size = _number(results.bundle["bytes"]) / _number(dense_bytes)
    time = sparse.median / dense.median
    bought = [word for word, ratio in (("bytes", size), ("time", time)) if ratio < NOTICEABLE]
    return [
        f"against the same bundle dense in int8, {results.engine}: {size:.2f} x the bytes, {time:.2f} x the time of a "
        f"decision: {results.sparsity:.0%} of zeros buy {' and '.join(bought) or 'neither'}"
    ]


def recovery_line(recovery: Mapping[str, JsonValue]) -> str:
    """Method and cost of the repair after pruning; what is not known is left out."""
    text = f"recovery: {recovery['method']}"
    if recovery.get("trained_parameters") is not None:
        text += f" trained {_number(recovery['trained_parameters']):,.0f} parameters"
    if recovery.get("seconds") is not None:
        text += f" in {_number(recovery['seconds']):,.0f} s"
    if recovery.get("peak_memory_mb") is not None:
        megabytes = _number(recovery["peak_memory_mb"])
        text += f", peak memory {megabytes / 1e3:.1f} GB" if megabytes >= 1e3 else f", peak memory {megabytes:.0f} MB"
    return text


def sizes_line(bundle: Mapping[str, JsonValue]) -> str:
    """Sizes of the sparse model and the dense encodings, and which is smallest; `bundle` is what `write_bundle` returns."""
    sizes = {
        "dense fp32": _number(bundle["dense_fp32_bytes"]),
        "dense fp16": _number(bundle["dense_fp16_bytes"]),
        "dense int8": _number(bundle["dense_int8_bytes"]),
        f"sparse {bundle['values']}": _number(bundle["bytes"]),
    }
    bits = bundle.get("bits_per_weight")
    text = " · ".join(f"{name} {size / 1e6:.{2 if size < 1e7 else 1}f} MB" for name, size in sizes.items())
    if bits is not None:
        text += f" ({_number(bits):.2f} bits per pruned-matrix weight)"
    return f"size: {text}; smallest: {min(sizes, key=lambda name: sizes[name])}"


def _cells(results: Results) -> tuple[list[str], list[list[str]]]:
    main, bound = results.metric, results.bound
    header = ["policy", *map(metric_name, results.metrics.values())]
    header += [f"of {bound.name}"] if bound is not None else []
    header += [f"sparse − this{f' [{main.unit}]' if main.unit else ''}"] if results.differences else []
    rows = []
    for name in policy_order(list(results.policies)):
        row = [_label(name, results), *(estimate_text(results.policies[name].get(key)) for key in results.metrics)]
        if bound is not None:
            share = bound.share.get(name)
            row.append("–" if share is None else f"{share.mean:.1%}")
        rows.append([*row, estimate_text(results.differences.get(name))] if results.differences else row)
    return header, rows


def _label(name: str, results: Results) -> str:
    """A policy's name; that of the guarded row with the share of decisions that were not the model's."""
    if name != GUARDED or results.guarded is None:
        return name
    return f"{name} ({results.guarded.share:.1%} {results.guarded.fallback})"


def _title(results: Results) -> str:
    counts = sorted({figure.n for figures in results.policies.values() for figure in figures.values()})
    episodes = " or ".join(map(str, counts)) or "0"
    place = "" if results.replay is None else f" in a real player at {results.replay['speed']:g} times its pace"
    return (
        f"{results.task} on {results.data}{place}: {results.model} at sparsity {results.sparsity:.0%}, "
        f"mean [95 % interval] over {episodes} test episodes"
    )


def _number(value: JsonValue) -> float:
    if not isinstance(value, int | float):
        raise KeyError(f"{value!r} is not a number")
    return float(value)
