"""A study finds the right runs, refuses wrong ones, and reports what plain numpy computes from what was played."""

import contextlib
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from compare.study_runs import EPISODES, JCT, LAYERS, QOE, Runs
from small import ROOT

from edgenetllm.compare.charts import band, quality_ends, spread
from edgenetllm.compare.png_chart import MARKERS
from edgenetllm.compare.retention import draw_study, main, study_markdown
from edgenetllm.compare.series import SYMBOLS, make_series
from edgenetllm.compare.study import Study, make_study
from edgenetllm.report.episodes import read_metrics
from edgenetllm.report.results import Results

PNG = b"\x89PNG\r\n"


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path / "runs")


def study_of(runs: Runs) -> Study:
    return make_study([runs.root], resamples=500)


def fails(folders: list[Path]) -> tuple[int, str]:
    """Exit code and message of the command."""
    with contextlib.redirect_stderr(io.StringIO()) as stream:
        code = main([*map(str, folders), "--out", str(folders[0] / "out")])
    assert not (folders[0] / "out.md").exists()
    return code, stream.getvalue()


def test_cells_are_means_over_seeds_and_episodes(runs: Runs) -> None:
    folders = [runs.write(share, "wanda 2:4 owl", 0.5, seed) for seed, share in ((2, 0.9), (1, 0.8), (3, 1.0))]
    runs.write(0.99, "wanda 2:4 owl", 0.5, 1, recovery="specialise")
    runs.write(0.99, "wanda 2:4 owl", 0.4, 1, recovery="none")
    runs.write(1.0, None, 0.0, 4, stage="train")
    runs.write(1.0, "wanda", 0.4, 1, stage="evaluate", task="abr")
    study = study_of(runs)
    assert [(c.method, c.recovery, c.sparsity, c.seeds) for c in study.cells] == [
        ("wanda 2:4 owl", None, 0.4, [1]),
        ("wanda 2:4 owl", None, 0.5, [1, 2, 3]),
        ("wanda 2:4 owl", "specialise", 0.5, [1]),
    ]
    played = [read_metrics(folder / "metrics.parquet", [QOE]).of(QOE) for folder in folders]
    sparse, dense = (np.array([values[name] for values in played]) for name in ("sparse", "dense"))
    cell = study.cells[1]
    assert cell.retention is not None
    assert cell.retention.mean == pytest.approx(sparse.mean() / dense.mean())
    assert cell.retention.mean == pytest.approx(0.9, abs=0.01)
    assert cell.retention.ci95[0] < 0.86 < 0.94 < cell.retention.ci95[1]  # the seeds differ, and that shows
    assert cell.metric.mean == pytest.approx(sparse.mean())
    assert cell.metric.n == EPISODES
    references = {reference.name: reference for reference in study.references}
    assert list(references) == ["dense", "bba", "mpc"]
    assert references["dense"].seeds == [1, 2, 3, 4]
    assert references["dense"].metric.mean == pytest.approx(np.mean([runs.dense(seed).mean() for seed in (1, 2, 3, 4)]))
    assert len(study.runs) == 6


def test_one_seed_has_the_interval_of_the_run(runs: Runs) -> None:
    folder = runs.write(0.9)
    cell = make_study([runs.root]).cells[0]
    own = Results.load(folder / "results.json").retention["test/qoe"]
    assert own is not None
    assert cell.retention is not None
    assert cell.retention.ci95 == pytest.approx(own.ci95)
    assert ", 1 seed |" in study_markdown(study_of(runs))
    assert "say nothing about another training" in study_markdown(study_of(runs))


def test_where_lower_is_better_retention_turns_over(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs", JCT, "cjs")
    for seed in (1, 2):
        runs.write(0.8, seed=seed)
    study = study_of(runs)
    assert study.cells[0].retention is not None
    assert study.cells[0].retention.mean == pytest.approx(0.8, abs=0.01)
    assert study.cells[0].metric.mean > study.references[0].metric.mean
    low, high = band(study.cells[0], False)
    assert low < study.cells[0].metric.mean < high
    assert "dense over sparse" in study_markdown(study)


def test_the_full_control_is_always_there_whatever_its_method(runs: Runs) -> None:
    runs.write(1.0)
    text = study_markdown(study_of(runs))
    assert "| 100 % sparse | not measured | not measured | – |" in text
    assert "| 100 % sparse + recovery | not measured | not measured | – |" in text
    runs.write(-0.5, "magnitude", 1.0)
    runs.write(0.97, "wanda", 1.0, recovery="specialise")
    study = study_of(runs)
    assert [(cell.method, cell.recovery) for cell in study.controls] == [(None, None), (None, "specialise")]
    text = study_markdown(study)
    assert "not measured" not in text
    assert "| 100 % sparse + specialise | " in text
    assert [cell.method for cell in study.cells] == ["wanda"]


def test_the_highest_lossless_sparsity_of_each_method(runs: Runs) -> None:
    for method, shares in {"a": (1.01, 0.98, 1.01, 0.5), "b": (0.98, 0.9, 0.8, 0.7)}.items():
        for sparsity, share in zip((0.2, 0.4, 0.5, 0.6), shares, strict=True):
            runs.write(share, method, sparsity)
    first, second = [line for line in study_markdown(study_of(runs)).splitlines() if line.startswith(("- a:", "- b:"))]
    assert first == "- a: 50 % (but less at 40 %)"
    assert second.startswith("- b: none measured (best: 9")
    assert second.endswith(" % at 20 %)")


def test_of_two_equal_runs_the_one_that_started_last_counts(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = runs.write(0.5), runs.write(0.9)
    third = runs.write(0.7, seed=2)
    out = runs.root.parent / "out" / "study.v1"
    assert main([str(runs.root), str(new), "--out", str(out)]) == 0
    assert capsys.readouterr().err == (
        f"note: seed 1, wanda at 40 %: {new.name} repeats {old.name} in everything; {new.name}, which started last, counts\n"
    )
    study = Study.load(f"{out}.json")
    assert [run.folder for run in study.runs] == [new.name, third.name]
    assert f"repeats {old.name}" in Path(f"{out}.md").read_text()


def test_a_job_of_a_sweep_is_named_with_the_sweep(runs: Runs) -> None:
    old, new = runs.write(0.5), runs.write(0.9)
    sweep = runs.root / "2026-01-02_00-00-00"
    sweep.mkdir()
    old.rename(sweep / "10")
    new.rename(sweep / "9")
    assert [run.folder for run in study_of(runs).runs] == ["2026-01-02_00-00-00/9"]  # which started last


def test_redrawn_from_the_figures_alone(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        runs.write(0.99, "wanda", 0.2, seed)
        runs.write(0.2, "wanda", 0.6, seed)
    out = runs.root.parent / "docs" / "retention"
    assert main([str(runs.root), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [f"{out}.json", f"{out}.md", f"{out}.png"]
    text, picture = Path(f"{out}.md").read_bytes(), Path(f"{out}.png").read_bytes()
    assert picture.startswith(PNG)
    assert str(runs.root.parent).encode() not in text + Path(f"{out}.json").read_bytes()  # names only
    shutil.rmtree(runs.root)
    Path(f"{out}.md").unlink()
    Path(f"{out}.png").unlink()
    assert main(["--redraw", f"{out}.json"]) == 0
    assert Path(f"{out}.md").read_bytes() == text
    assert Path(f"{out}.png").read_bytes() == picture


def test_markdown_has_every_cell(runs: Runs) -> None:
    for seed in (1, 2, 3):
        runs.write(0.98, "sparsegpt", 0.4, seed)
    runs.write(0.9, "magnitude global", 0.6, 1)
    study = study_of(runs)
    lines = study_markdown(study).splitlines()
    assert lines.count("| method | 40 % | 60 % |") == 2
    magnitude, sparsegpt = study.cells
    assert sparsegpt.retention is not None
    mean, low, high = (100 * value for value in (sparsegpt.retention.mean, *sparsegpt.retention.ci95))
    assert f"| sparsegpt | {mean:.1f} % [{low:.1f}, {high:.1f}], 3 seeds | – |" in lines
    qoe = magnitude.metric
    assert f"| magnitude global | – | {qoe.mean:.3f} [{qoe.ci95[0]:.3f}, {qoe.ci95[1]:.3f}] |" in lines
    assert f"| {study.runs[0].folder} | prune | sparsegpt | 40 % | 1 |" in lines
    assert any(line.startswith("| mpc | ") for line in lines)


def test_a_method_that_also_prunes_encoder_and_head_belongs_to_the_study(runs: Runs) -> None:
    runs.write(1.0)
    layers = {**LAYERS, "encoder.network.0": {"zeros": 3, "weights": 9}}
    runs.write(0.9, "wanda all", pruning={"method": "wanda", "label": "wanda all", "layers": layers})
    assert [cell.method for cell in study_of(runs).cells] == ["wanda", "wanda all"]


@pytest.mark.parametrize("change", [{"task": "cjs"}, {"model": "other"}, {"data": "fcc"}])
def test_several_studies_in_one_are_refused_by_name(runs: Runs, change: dict[str, str]) -> None:
    first, second = runs.write(1.0), runs.write(1.0, "a", **change)
    code, error = fails([runs.root])
    assert code == 2
    assert "one task, model and data set" in error
    assert str(first) in error
    assert str(second) in error


def test_files_of_different_runs_are_refused(runs: Runs) -> None:
    first, second = runs.write(1.0), runs.write(0.9, "a")
    shutil.copy(second / "metrics.parquet", first / "metrics.parquet")
    code, error = fails([runs.root])
    assert code == 2
    assert error.startswith(f"error: {first}: qoe of sparse is ")
    assert "not of the same run" in error


def test_two_adaptations_of_one_seed_are_refused_and_small_deviations_noted(runs: Runs) -> None:
    first = runs.write(1.0, "a")
    near = runs.write(1.0, "b", dense_share=1.001)
    study = study_of(runs)
    assert any(first.name in note and near.name in note for note in study.notes)
    far = runs.write(1.0, "c", dense_share=1.1)
    code, error = fails([runs.root])
    assert code == 2
    assert "different adaptations" in error
    assert str(far) in error


def test_other_episodes_or_another_backbone_are_refused(runs: Runs) -> None:
    runs.write(1.0)
    other = runs.write(1.0, seed=2, episode="walk")
    assert "different episodes" in fails([runs.root])[1]
    shutil.rmtree(other)
    runs.write(1.0, seed=2, settings={"backbone": "larger"})
    assert "backbone: (absent) or larger" in fails([runs.root])[1]


def test_nothing_to_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fails([tmp_path]) == (2, f"error: {tmp_path}: no results.json of a finished run in it or below\n")
    assert fails([tmp_path / "absent"]) == (2, f"error: {tmp_path}/absent: no such folder\n")
    assert main(["--redraw", str(tmp_path / "absent.json")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/absent.json: No such file")
    for arguments in ([], ["a"], ["a", "--redraw", "b.json"]):
        with pytest.raises(SystemExit):
            main(arguments)


def test_the_axis_shows_what_has_not_collapsed(runs: Runs) -> None:
    baselines = {"far": -3.0, "near": 0.93}
    for sparsity, share in ((0.2, 1.0), (0.4, 0.95), (0.6, -2.0)):
        runs.write(share, sparsity=sparsity, baselines=baselines)
    runs.write(-1.0, sparsity=1.0, baselines=baselines)
    study = study_of(runs)
    dense, *others = study.references
    baselines = {other.name: other.metric for other in others}
    low, high = quality_ends(study.metric, [dense.metric], [*study.cells, *study.controls], baselines)
    figures = {cell.sparsity: cell.metric.mean for cell in study.cells}
    references = {reference.name: reference.metric.mean for reference in study.references}
    assert low < figures[0.4] < figures[0.2] < high
    assert low < references["near"] < references["dense"] < high
    assert figures[0.6] < low
    assert references["far"] < low
    assert high - low < 0.3
    draw_study(study, runs.root / "study.png")
    assert (runs.root / "study.png").read_bytes().startswith(PNG)


def test_a_metric_below_zero_and_a_study_without_pruned_runs_can_be_drawn(runs: Runs) -> None:
    runs.write(1.0, None, 0.0)
    draw_study(study_of(runs), runs.root / "dense.png")
    assert "## " not in study_markdown(study_of(runs))
    other = Runs(runs.root / "negative")
    other.write(1.5, dense_share=-1.0)
    study = study_of(other)
    assert study.cells[0].retention is None
    assert "undefined, 1 seed" in study_markdown(study)
    draw_study(study, runs.root / "negative.png")


def test_labels_are_moved_apart() -> None:
    assert spread([1.0, 5.0], 1, 0, 10) == [1.0, 5.0]
    moved = spread([4.9, 5.0, 9.9, 9.95], 1, 0, 10)
    assert moved == sorted(moved)
    assert np.diff(moved).min() >= 1 - 1e-9
    assert moved[-1] <= 10
    assert np.diff(spread([0.0] * 5, 1, 0, 2)).min() >= 1 - 1e-9  # more labels than room: still apart


@pytest.mark.parametrize("name", ["retention_abr", "retention_cjs"])
def test_the_tables_and_pictures_of_the_documents_are_made_from_their_figures(name: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / f"{name}.json", tmp_path)
    assert main(["--redraw", str(tmp_path / f"{name}.json")]) == 0
    assert (tmp_path / f"{name}.md").read_bytes() == (ROOT / "docs" / f"{name}.md").read_bytes()
    assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)


def test_no_two_methods_of_a_study_look_alike(runs: Runs) -> None:
    """However many: each has a symbol that the picture can draw, and colours and symbols repeat at different times."""
    assert set(MARKERS) >= {*SYMBOLS, "star"}
    for number in range(20):
        runs.write(0.9, f"method{number}")
    looks = [(one.look.color, one.look.symbol) for one in make_series(study_of(runs).cells)]
    assert len(set(looks)) == 20
