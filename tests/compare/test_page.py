"""The comparison page: what it reads, how it groups, and that it says what it leaves out."""

import json
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from compare.study_runs import JCT, Runs

from edgenetllm.compare.__main__ import main
from edgenetllm.compare.charts import section_charts
from edgenetllm.compare.page import page
from edgenetllm.compare.plotly_chart import draw_chart, to_json
from edgenetllm.compare.runs import find_runs
from edgenetllm.compare.sections import Section, make_sections, student
from edgenetllm.compare.series import make_series
from edgenetllm.compare.study import make_study
from edgenetllm.errors import UserError
from edgenetllm.report.results import latency

SIZES = {"dense_fp32_bytes": 4_000_000, "dense_fp16_bytes": 2_000_000, "dense_int8_bytes": 1_000_000, "values": "fp16"}


def edge(megabytes: float = 1.5, sparse_ms: float = 6.0) -> dict:
    """Sizes and latencies of a run."""
    return {
        "bundle": {"bytes": int(1e6 * megabytes), "weights": 1_000_000, **SIZES},
        "decision_ms": {"torch dense": latency([8.0]), "torch sparse": latency([sparse_ms])},
    }


def sections(*folders: Path) -> list[Section]:
    return make_sections(find_runs(folders)[0], resamples=500)


def one_section(*folders: Path) -> Section:
    (section,) = sections(*folders)
    return section


def drawn(section: Section) -> dict:
    """Name of the plot -> Plotly's figure."""
    charts = section_charts(section, make_series(section.groups))
    return {name: draw_chart(chart, section) for name, chart in charts.items()}


def texts(html: str) -> list[list[str]]:
    """Rows of the tables, as texts."""
    rows = re.findall(r"<tr.*?</tr>", html, re.S)
    return [[unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<td.*?</td>", row, re.S)] for row in rows]


@pytest.mark.parametrize("task", ["abr", "cjs"])
def test_seeds_are_grouped_with_the_intervals_of_a_retention_study(tmp_path: Path, task: str) -> None:
    runs = Runs(tmp_path, task=task, metric=JCT) if task == "cjs" else Runs(tmp_path)
    for seed in (1, 2, 3):
        for sparsity, share in ((0.4, 1.0), (0.8, 0.9)):
            runs.write(share, sparsity=sparsity, seed=seed)
        runs.write(0.2, method=None, sparsity=1.0, seed=seed)
    runs.write(0.95, sparsity=0.8, recovery="specialise")  # a single seed: as its results say
    study = make_study([tmp_path], resamples=500)
    section = one_section(tmp_path)
    cells = {(cell.method, cell.recovery, cell.sparsity): cell for cell in (*study.cells, *study.controls)}
    assert len(section.groups) == len(cells) == 4
    for group in section.groups:
        cell = cells[group.method, group.recovery, group.sparsity]
        assert group.seeds == cell.seeds
        assert group.figures.metric.mean == pytest.approx(cell.metric.mean, rel=1e-12)
        if len(group.seeds) > 1:
            assert group.figures.basis == "seeds × episodes"
            assert group.figures.metric == cell.metric
            assert group.figures.retention == cell.retention
        else:
            (run,) = group.runs
            assert group.figures.basis == "episodes"
            assert group.figures.metric == run.results.policies["sparse"][f"test/{section.metric.name}"]
    (dense,) = section.dense
    assert dense.figures.metric == study.references[0].metric
    assert {name: figures.mean for name, figures in section.baselines.items()} == pytest.approx(
        {other.name: other.metric.mean for other in study.references[1:]}
    )


def test_without_metrics_the_interval_is_over_seeds_and_says_so(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    folders = [runs.write(0.9, seed=seed) for seed in (1, 2, 3)]
    (folders[1] / "metrics.parquet").unlink()
    section = one_section(tmp_path)
    (group,) = section.groups
    assert group.figures.basis == "seeds only"
    means = [run.results.policies["sparse"]["test/qoe"].mean for run in group.runs]
    mean, (low, high) = student(means)
    assert mean == pytest.approx(np.mean(means))
    # Three seeds: 4.303 standard errors, from a table of Student's t.
    assert high - mean == mean - low == pytest.approx(4.303 * np.std(means, ddof=1) / 3**0.5, rel=1e-3)
    assert group.figures.metric.ci95 == (low, high)
    assert any(
        "seeds only" in note and "metrics.parquet" in note and "evaluate it again" in note for note in section.notes
    )


def test_only_what_was_tested_on_the_same_episodes_stands_side_by_side(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    runs.write(0.9)
    runs.write(0.9, seed=2)
    runs.write(0.9, data_hash="other")
    runs.write(0.9, data="fcc")
    found = sections(tmp_path)
    assert [(s.data, s.data_hash, len(s.runs)) for s in found] == [
        ("synthetic", "d", 2), ("fcc", "d", 1), ("synthetic", "other", 1)
    ]  # fmt: skip


def test_other_backbones_and_other_values_are_not_averaged(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    runs.write(0.9)
    runs.write(0.9, seed=2, settings={"backbone": "larger"})
    runs.write(0.9, bundle={"bytes": 1, **SIZES, "values": "int8"})
    section = one_section(tmp_path)
    assert len(section.groups) == 3
    assert len(section.dense) == 2
    names = [series.name for series in make_series(section.groups)]
    assert len(set(names)) == 3


def test_a_run_that_repeats_another_is_shown_and_the_one_that_started_last_counts(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    old, new = runs.write(0.5), runs.write(0.9)
    aside = tmp_path / "aside"
    old.rename(aside)
    old = new.rename(old)  # what started last has the first name
    new = aside.rename(new)
    old, new = new, old
    section = one_section(tmp_path)
    (group,) = section.groups
    assert ([run.folder for run in group.runs], list(section.grouped.repeats)) == ([new], [old])
    assert any(f"{new.name} repeats {old.name} in everything" in note for note in section.notes)
    rows = {
        row[0]: row for row in texts(page([section], [], tmp_path / "page.html")) if row and row[0].startswith("2026")
    }
    assert rows[old.name][-1] == f"no: {new.name} repeats it"
    assert rows[new.name][-1] == "yes"


def test_other_adaptations_of_one_seed_are_noted(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    runs.write(0.9)
    runs.write(0.9, sparsity=0.8)
    assert not one_section(tmp_path).notes
    runs.write(0.9, sparsity=0.9, dense_share=0.8)
    assert any("though their identities are the same" in note for note in one_section(tmp_path).notes)


def test_what_is_left_out_is_listed_with_its_reason(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "logs")
    good = runs.write(0.9)
    for status in ("failed", "interrupted", "running"):
        folder = tmp_path / "logs" / status
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"status": status}))
    after = runs.write(0.9, seed=2)
    (after / "run.json").write_text('{"status": "failed"}')
    broken = runs.write(0.9, seed=3)
    (broken / "results.json").write_text('{"schema": 1')
    (tmp_path / "logs" / "typo" / ".hydra").mkdir(parents=True)
    mute = runs.write(0.9, seed=4, policies={})
    joint = tmp_path / "logs" / "joint"
    runs.write(0.9, seed=5).rename(joint)
    (joint / "abr").mkdir()
    for name in ("results.json", "replay.parquet", "metrics.parquet"):
        (joint / name).rename(joint / "abr" / name)
    (joint / "run.json").write_text('{"status": "failed"}')
    found, left_out = find_runs([tmp_path / "logs"])
    assert [run.folder for run in found] == [good]
    reasons = {run.folder.name: run.reason for run in left_out}
    assert len(left_out) == len(reasons) == 8
    assert reasons["abr"].startswith("failed")
    assert reasons["failed"].startswith("failed")
    assert reasons["interrupted"].startswith("interrupted")
    assert reasons["running"].startswith("unfinished")
    assert "though results.json is there" in reasons[after.name]
    assert "not JSON" in reasons[broken.name]
    assert reasons["typo"].startswith("never began")
    assert "dense and sparse" in reasons[mute.name]
    html = page(make_sections(found, 100), left_out, tmp_path / "page.html")
    foot = html[html.index('id="left-out"') :]
    assert all(reason in unescape(foot) for reason in reasons.values())


def test_no_run_is_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}: no results.json of a finished run in it or below\n"
    with pytest.raises(UserError, match="no such folder"):
        find_runs([tmp_path / "nowhere"])
    assert main([str(tmp_path), str(tmp_path)]) == 2
    assert "--out" in capsys.readouterr().err
    assert main([str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "a folder" in capsys.readouterr().err


def test_a_folder_of_runs_makes_a_page_and_a_run_its_own_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Runs(tmp_path / "logs").write(0.9)
    assert main([str(tmp_path / "logs")]) == 0
    assert "1 run compared" in capsys.readouterr().out
    assert (tmp_path / "logs" / "comparison.html").is_file()
    assert not (folder / "table.md").exists()
    assert main([str(folder)]) == 0
    assert (folder / "table.md").is_file()
    assert main([str(folder), "--out", str(tmp_path / "new" / "one.html")]) == 0
    assert (tmp_path / "new" / "one.html").is_file()


def test_links_lead_to_the_runs_from_where_the_page_lies(tmp_path: Path) -> None:
    folder = Runs(tmp_path / "a logs & more").write(0.9)
    for out in (tmp_path / "page.html", tmp_path / "docs" / "deep" / "page.html", folder / "page.html"):
        html = page([one_section(tmp_path)], [], out)
        (target,) = re.findall(rf'<a href="([^"]*)">{folder.name}</a>', html)
        assert not target.startswith("/")
        out.parent.mkdir(parents=True, exist_ok=True)
        assert (out.parent / unquote(unescape(target))).resolve() == folder.resolve()


def test_sizes_and_latency_stand_next_to_the_dense_ones(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    runs.write(0.9, **edge(1.5, sparse_ms=4.0))
    runs.write(0.9, seed=2, **edge(1.5, sparse_ms=16.0))
    section = one_section(tmp_path)
    (group,) = section.groups
    assert group.latency["torch"].ms == pytest.approx(10)
    assert group.latency["torch"].ends == (4, 16)
    assert group.latency["torch"].to_dense == pytest.approx(1)  # half and twice
    rows = {
        row[1]: row for row in texts(page([section], [], tmp_path / "p.html")) if len(row) > 10 and row[0] == "tiny"
    }
    assert [rows[name][8:10] for name in ("dense fp32", "dense fp16", "dense int8", "wanda")] == [
        ["4.0", "4.00"], ["2.0", "2.00"], ["1.0", "1.00"], ["1.5", "1.50"]
    ]  # fmt: skip
    assert rows["dense int8"][4] == "not played"
    size = drawn(section)["size"]
    (dense,) = [trace for trace in size.data if trace.meta["series"] == "dense"]
    assert dict(zip(dense.text, dense.x, strict=True)) == {"dense fp32": 4, "dense fp16": 2, "dense int8": 1}
    assert list(dense.marker.symbol) == ["diamond", "diamond-open", "diamond-open"]


def test_runs_without_sizes_latency_or_a_ratio_are_drawn_with_a_word(tmp_path: Path) -> None:
    Runs(tmp_path).write(0.9, retention={"test/qoe": None})
    section = one_section(tmp_path)
    figures = drawn(section)
    said = {name: " ".join(mark.text for mark in figure.layout.annotations) for name, figure in figures.items()}
    assert "undefined" in said["sparsity"]
    assert "no latency" in said["latency"]
    assert "no sizes" in said["size"]


def test_lower_is_better_is_written_at_the_axis(tmp_path: Path) -> None:
    Runs(tmp_path, task="cjs", metric=JCT).write(0.9, **edge())
    section = one_section(tmp_path)
    figures = drawn(section)
    assert figures["size"].layout.yaxis.title.text == "mean JCT [s] ↓ (lower is better)"
    assert figures["sparsity"].layout.yaxis.title.text == "retention [% of dense] ↑"
    (point,) = [trace for trace in figures["sparsity"].data if trace.meta["series"] == "s0"]
    assert 80 < point.y[0] < 100  # worse than dense, though its JCT is higher


def test_a_collapsed_point_is_a_triangle_at_the_edge(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    runs.write(0.97, **edge())
    runs.write(0.1, sparsity=0.9, **edge())
    section = one_section(tmp_path)
    for figure in drawn(section).values():
        low, high = figure.layout.yaxis.range
        (line,) = [trace for trace in figure.data if trace.meta["series"] == "s0"]
        assert [low <= y <= high for y in line.y] == [True, False]
        assert [mark.text for mark in figure.layout.annotations if mark.name == "s0"] == ["▼"]


def test_names_cannot_inject_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x>"
    runs = Runs(tmp_path)
    settings = {f"adapter.{evil}": evil}
    image = "<img src=x onerror=alert(1)>"
    runs.write(0.9, method=evil, model=image, data=evil, recovery=evil, notes=[evil], settings=settings, **edge())
    runs.write(0.9, method=evil, model=image, data=evil, recovery=evil, **edge())
    section = one_section(tmp_path)
    html = page([section], [], tmp_path / "page.html")
    plain = html[: html.index("<script>/**")]  # before plotly.js
    assert "alert(1)" in plain
    assert "<script>" not in plain
    assert "<img" not in plain
    for figure in drawn(section).values():
        assert "<" not in to_json(figure)
        figure.update_traces(meta=None)  # compared with the filters, never shown
        assert "<img" not in json.dumps(figure.to_plotly_json())  # Plotly reads a little HTML in texts


def test_every_engine_has_its_own_points(tmp_path: Path) -> None:
    times = {"torch dense": 8.0, "torch sparse": 6.0, "onnx dense": 4.0, "onnx sparse": 2.0}
    decisions = {name: latency([ms]) for name, ms in times.items()}
    runs = Runs(tmp_path)
    runs.write(0.97, **(edge() | {"decision_ms": decisions}))
    runs.write(0.9, sparsity=0.8, **edge())  # torch only
    section = one_section(tmp_path)
    figure = drawn(section)["latency"]
    sparse = [trace for trace in figure.data if trace.meta["series"] == "s0"]
    assert [(list(trace.x), trace.text[-1]) for trace in sparse] == [([6, 6], "torch"), ([2], "onnx")]
    dense = [trace for trace in figure.data if trace.meta["series"] == "dense"]
    assert {trace.text[0]: trace.x[0] for trace in dense} == {"dense torch": 8, "dense int8 onnx": 4}
    assert section.groups[0].latency["onnx"].to_dense == pytest.approx(0.5)
    assert (section.dense[0].latency["torch"].runs, section.dense[0].latency["onnx"].runs) == (2, 1)
