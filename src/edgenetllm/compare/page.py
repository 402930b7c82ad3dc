"""The comparison page: one HTML file that opens without a network, made from the results of any number of runs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template

from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from edgenetllm.compare.charts import section_charts
from edgenetllm.compare.page_tables import group_table, left_out_table, run_table
from edgenetllm.compare.plotly_chart import draw_chart, to_json
from edgenetllm.compare.runs import LeftOut, find_runs
from edgenetllm.compare.sections import Group, Section, make_sections
from edgenetllm.compare.series import DENSE, Look, Palette, Series, make_series
from edgenetllm.files import write_atomic
from edgenetllm.report.text import count, html_text

PAGE_FILE = "comparison.html"
NOTES = 4  # more of them would push the tables out of sight
_SVG_DASHES = {"dash": "6 3", "dot": "2 3", "dashdot": "6 3 2 3", "longdash": "9 3", "longdashdot": "9 3 2 3"}


def write_page(folders: Sequence[Path], out: Path) -> tuple[int, int]:
    """Compare all runs below the folders. Returns how many runs the page shows, and how many it leaves out.

    Raises UserError when a folder is not there, or when there is no finished run.
    """
    runs, left_out = find_runs(folders)
    write_atomic(out, page(make_sections(runs), left_out, out).encode())
    return len(runs), len(left_out)


def page(sections: Sequence[Section], left_out: Sequence[LeftOut], out: Path) -> str:
    """The whole document. `out`: where it will lie, as it links to the runs from there."""
    palette = Palette([group for section in sections for group in section.groups])
    plotly, script = get_plotlyjs(), _asset("page.js")
    link, foot = "", ""
    if left_out:
        runs = count(len(left_out), "run")
        link = f'<a href="#left-out">{runs} left out.</a>'
        foot = f'<section id="left-out"><h2>{runs} left out</h2>\n{left_out_table(left_out, out)}</section>'
    return Template(_asset("page.html")).substitute(
        policy=_policy([plotly, script]),
        style=_asset("page.css"),
        runs=count(sum(len(section.runs) for section in sections), "run"),
        groups=count(sum(len(section.groups) for section in sections), "group"),
        sets=count(len(sections), "set"),
        left_out=link,
        filters=_filters(sections),
        entries="".join(map(_entry, sections)),
        sections="\n".join(_section(section, make_series(section.groups, palette), out) for section in sections),
        foot=foot,
        plotly=plotly,
        script=script,
    )


def _section(section: Section, series: Sequence[Series[Group]], out: Path) -> str:
    # The plots, as JSON that the page's script draws.
    key = section.id
    plots = "\n".join(
        f'<figure class="plot" id="{key}-{name}" data-plot="{name}" aria-label="{html_text(chart.title)}">'
        f'<script type="application/json">{to_json(draw_chart(chart, section))}</script></figure>'
        for name, chart in section_charts(section, series).items()
    )
    # The line of facts, and the legend, whose chips hide and show a series.
    facts = ", ".join(
        (
            f"{count(section.dense[0].metric.n, 'test episode')} (hash {html_text(section.data_hash[:8])})",
            count(len(section.runs), "run"),
            count(len(section.groups), "group"),
        )
    )
    chips = [_chip("dense", "dense", "", Look(DENSE, "diamond", "solid"))]
    chips += [_chip(one.key, one.name, one.model, one.look) for one in series]
    chips.append('<button type="button" class="chips-all">hide all</button>')
    task, data = html_text(section.task), html_text(section.data)
    return f"""<section id="{key}" class="comparison" data-task="{task}" data-data="{data}">
<h2>{_heading(section)}</h2>
<p class="facts">{facts}</p>
<div class="legend">{"".join(chips)}</div>
<div class="plots">
{plots}
</div>
{_list(_notes(section))}
<h3>Groups, dense models and baselines</h3>
{group_table(section, series)}
<details><summary>Each run, with a link to its folder ({len(section.runs)})</summary>
{run_table(section, out)}</details>
</section>"""


def _list(notes: Sequence[str]) -> str:
    """A list of notes: the first NOTES in sight, all others folded away."""
    if not notes:
        return ""
    lines = [f"<li>{html_text(note)}</li>" for note in notes]
    shown = f'<ul class="notes">{"".join(lines[:NOTES])}</ul>'
    if len(lines) <= NOTES:
        return shown
    more = count(len(lines) - NOTES, "more note")
    return f'{shown}<details><summary>{more}</summary><ul class="notes">{"".join(lines[NOTES:])}</ul></details>'


def _heading(section: Section) -> str:
    return f"{html_text(section.task)} on {html_text(section.data)}"


def _entry(section: Section) -> str:
    return f'<li><a href="#{section.id}">{_heading(section)}</a> ({len(section.runs)})</li>'


def _notes(section: Section) -> list[str]:
    """Notes that one should read before comparing."""
    notes = []
    if len({tuple(group.seeds) for group in (*section.groups, *section.dense)}) > 1:
        notes.append(
            "groups have different training seeds: compare their retention, each against its own dense parents"
        )
    versions = [run.results.versions for run in section.runs]
    machines = sorted({one["cpu"] for one in versions if "cpu" in one})
    if len(machines) > 1:
        notes.append(f"latencies come from several machines ({', '.join(machines)}): compare their ratio to dense")
    return notes + section.notes


def _chip(key: str, name: str, model: str, look: Look) -> str:
    """A button that hides and shows a series, and its legend."""
    pattern = f' stroke-dasharray="{_SVG_DASHES[look.dash]}"' if look.dash in _SVG_DASHES else ""
    fill = "var(--paper)" if look.symbol.endswith("-open") else look.color
    return (
        f'<button type="button" class="chip" aria-pressed="true" data-series="{key}" data-model="{html_text(model)}">'
        f'<svg width="34" height="12" aria-hidden="true" stroke="{look.color}" stroke-width="2"><path d="M0 6H34"{pattern}/>'
        f'<circle cx="17" cy="6" r="4" fill="{fill}"/></svg>{html_text(name)}</button>'
    )


def _filters(sections: Sequence[Section]) -> str:
    choices = {
        "task": {section.task for section in sections},
        "data": {section.data for section in sections},
        "model": {run.results.model for section in sections for run in section.runs},
    }
    boxes = ""
    for name, values in choices.items():
        options = "".join(f"<option>{html_text(value)}</option>" for value in sorted(values))
        boxes += f'<label>{name} <select id="filter-{name}"><option value="">all</option>{options}</select></label>'
    boxes += '<label>rows with <input id="filter-text" type="search" placeholder="a method, a run …"></label>'
    return f'<form class="filters">{boxes}<output id="shown" aria-live="polite"></output></form>'


def _policy(scripts: Sequence[str]) -> str:
    """The security policy of the page: nothing is fetched and no other script runs, whatever the name of a run contains."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}"


def _asset(name: str) -> str:
    return resources.files("edgenetllm.compare").joinpath(name).read_text(encoding="utf-8")
