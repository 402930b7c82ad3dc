"""The page of `demo.py`: a picture of the loop with its numbers, and the same as text."""

from __future__ import annotations

import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from edgenetllm.report.results import Results

METRIC = "test/qoe"
WIDTH, HEIGHT = 230, 96  # of a box
# Corners of the boxes, and the two ends of each arrow.
PLACES = {"1": (40, 60), "ship": (365, 60), "2": (690, 60), "3": (690, 262), "4": (365, 262), "5": (40, 262)}
ARROWS = [
    (270, 108, 365, 108),
    (595, 108, 690, 108),
    (805, 156, 805, 262),
    (690, 310, 595, 310),
    (365, 310, 270, 310),
    (155, 262, 155, 156),
]
HEADER = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 390" width="100%"
 font-family="Helvetica, Arial, sans-serif" role="img"
 aria-label="The loop: cloud, bundle, site, specialisation, agent, logs, cloud">
<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 L10 5 L0 10 z" fill="#486581"/></marker></defs>
<rect x="10" y="10" width="290" height="370" rx="12" fill="#f0f4f8" stroke="#bcccdc"/>
<rect x="335" y="10" width="615" height="370" rx="12" fill="#fff8e6" stroke="#f0d48a"/>
<text x="30" y="38" font-size="14" font-weight="bold" fill="#627d98">CLOUD</text>
<text x="355" y="38" font-size="14" font-weight="bold" fill="#b08800">EDGE</text>"""
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>The loop between cloud and edge</title>
<style>body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 980px; margin: 2em auto; padding: 0 1em; color: #1f2933 }}
table {{ border-collapse: collapse }} td, th {{ padding: .2em 1em .2em 0; text-align: right;
border-bottom: 1px solid #d9e2ec }}
td:first-child, th:first-child {{ text-align: left }} img {{ max-width: 100% }}</style>
<h1>The loop between cloud and edge</h1>
<p>One run of <code>make demo</code> on one machine, {total}. The budget is small: it shows how the parts work together, not
how good they can be.</p>
{picture}
<h2>At the site</h2><p>The site's {episodes} test traces, played in the simulator.</p>
<table><tr><th>policy<th>QoE, mean [95 % interval]</tr>
{rows}</table>
{session}</html>
"""


def page(results: Mapping[str, Results], facts: Mapping[str, Any], plots: Path, folder: Path) -> tuple[str, str]:
    """Text for the terminal, and the HTML page in `folder`. `plots` holds those of the sessions that were played."""
    boxes, rows = boxes_of(results, facts), rows_of(results)
    total = f"{facts['total_s'] / 60:.1f} minutes in all"
    lines = [f"{title}: {' '.join(texts)}" for title, texts in boxes.values()]
    lines += ["", "QoE at the site, mean [95 % interval] over its test traces"]
    lines += [f"  {name:30s} {value}" for name, value in rows]
    shown = [os.path.relpath(file, folder) for file in sorted(plots.glob("timeline*.png"))[:1]]
    html = PAGE.format(
        total=escape(total),
        picture=svg(boxes),
        episodes=results["specialised"].policies["sparse"][METRIC].n,
        rows="\n".join(f"<tr><td>{escape(name)}<td>{escape(value)}</tr>" for name, value in rows),
        session="".join(f'<h2>A session</h2><img alt="bitrate, buffer, stalls" src="{escape(one)}">' for one in shown),
    )
    return "\n".join([*lines, "", total]), html


def boxes_of(results: Mapping[str, Results], facts: Mapping[str, Any]) -> dict[str, tuple[str, list[str]]]:
    """Step -> title and lines of its box."""
    cloud, played, again = results["cloud"], results["played"], results["again"]
    special: Any = results["specialised"].specialisation
    sizes: Any = cloud.bundle
    seconds, served = facts["seconds"], facts["served"]
    where = "a player at the site" if played.replay else "the site, simulated"
    return {
        "1": (
            "cloud: adapt and prune",
            [
                f"QoE {mean(cloud, 'sparse')} on its own traces,",
                f"dense {mean(cloud, 'dense')}; {seconds['1-adapt']:.0f} s",
            ],
        ),
        "ship": (
            "the bundle travels",
            [
                f"{facts['bundle_bytes'] / 1e6:.2f} MB at {cloud.sparsity:.0%} zeros,",
                f"dense fp16 {sizes['dense_fp16_bytes'] / 1e6:.1f} MB",
            ],
        ),
        "2": (where, [f"{name}: QoE {mean(played, name)}" for name in list(played.policies)[:2]]),
        "3": (
            "edge: specialise",
            [
                f"{special['trained_parameters']:,} parameters, {special['seconds']:.0f} s,",
                f"{special['bytes_down'] / 1e6:.2f} MB for the next device",
            ],
        ),
        "4": (
            "edge: the agent decides",
            [
                f"{served['decisions']:,} decisions over HTTP,",
                f"{served['median_ms']:.1f} ms, 99 %: {served['p99_ms']:.1f} ms",
            ],
        ),
        "5": (
            "cloud: adapt from the logs",
            [
                f"{facts['log_bytes'] / 1e6:.1f} MB of decisions came back,",
                f"QoE {mean(again, 'sparse')} at the site; {seconds['5-adapt-from-logs']:.0f} s",
            ],
        ),
    }


def rows_of(results: Mapping[str, Results]) -> list[tuple[str, str]]:
    """The policies on the site's test traces: name, and QoE with its interval."""
    learnt, again = results["specialised"], results["again"]
    ours = [
        ("the bundle as it was shipped", learnt, "before"),
        ("specialised at the site", learnt, "sparse"),
        ("adapted again from the logs", again, "sparse"),
    ]
    others = [(name, learnt, name) for name in learnt.policies if name not in ("before", "sparse", "dense", "control")]
    return [(name, interval(of, policy)) for name, of, policy in ours + others if METRIC in of.policies[policy]]


def mean(results: Results, policy: str) -> str:
    return f"{results.policies[policy][METRIC].mean:.3f}"


def interval(results: Results, policy: str) -> str:
    one = results.policies[policy][METRIC]
    return f"{one.mean:.3f} [{one.ci95[0]:.3f}, {one.ci95[1]:.3f}]"


def svg(boxes: Mapping[str, tuple[str, list[str]]]) -> str:
    """The loop: the cloud on the left, the edge on the right."""
    parts = [HEADER]
    parts += [
        f'<line x1="{x}" y1="{y}" x2="{to_x}" y2="{to_y}" stroke="#486581" stroke-width="2" marker-end="url(#head)"/>'
        for x, y, to_x, to_y in ARROWS
    ]
    for step, (title, lines) in boxes.items():
        x, y = PLACES[step]
        parts.append(f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fff" stroke="#486581"/>')
        middle = f'x="{x + WIDTH / 2}" text-anchor="middle"'
        parts.append(f'<text {middle} y="{y + 30}" font-size="15" font-weight="bold">{escape(title)}</text>')
        parts += [
            f'<text {middle} y="{y + 54 + 20 * number}" font-size="13" fill="#52606d">{escape(line)}</text>'
            for number, line in enumerate(lines)
        ]
    return "\n".join([*parts, "</svg>"])
