"""Plots come from the two files alone, show the right numbers, and leave matplotlib's global state as it was."""

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from reporting.conftest import METRICS

from edgenetllm.compare.__main__ import main
from edgenetllm.report.draw import draw
from edgenetllm.report.metrics_file import EpisodeMetrics, read_metrics
from edgenetllm.report.plots import draw_plots, timeline_policies, typical_episode
from edgenetllm.report.replay_file import read_replay
from edgenetllm.report.results import Results
from edgenetllm.report.style import style_of
from edgenetllm.tasks.abr.timeline import timeline

PNG = b"\x89PNG\r\n"


def is_png(path: Path) -> bool:
    return path.read_bytes()[: len(PNG)] == PNG


def test_a_run_is_redrawn_from_its_two_files(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path.name for path in run_folder.iterdir())
    assert before == ["metrics.parquet", "replay.parquet", "results.json"]
    assert main([str(run_folder)]) == 0
    assert "retention" in capsys.readouterr().out
    plots = sorted(path.name for path in (run_folder / "plots").iterdir())
    assert plots == ["layers.png", "qoe_cdf.png", "timeline.png"]
    assert all(is_png(run_folder / "plots" / name) for name in plots)
    assert (run_folder / "table.md").read_text().count("| ") > 5
    assert (run_folder / "layers.md").read_text().count("_proj |") == 2 + 4


def test_a_run_without_results_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/results.json: ")


def test_without_plots_only_the_table_is_written(run_folder: Path) -> None:
    assert "timeline" not in draw(run_folder, plots=False)
    assert not (run_folder / "plots").exists()


def test_a_task_whose_record_lacks_the_columns_has_no_timeline(run_folder: Path, results: Results) -> None:
    replay = read_replay(run_folder / "replay.parquet")
    episodes = read_metrics(run_folder / "metrics.parquet", list(results.metrics.values()))
    paths = draw_plots(results, episodes, replay.drop_columns(["clock_s"]), run_folder)
    assert "timeline" not in paths
    assert "QoE CDF" in paths
    other = results.model_copy(update={"task": "cjs"})
    assert "timeline" not in draw_plots(other, episodes, replay, run_folder)


def test_the_timeline_shows_a_typical_episode_of_our_models_and_the_best_baseline(run_folder: Path) -> None:
    qoe, _, stalls = METRICS
    episodes = read_metrics(run_folder / "metrics.parquet", METRICS)
    values = episodes.of(qoe)["dense"]
    assert typical_episode(episodes, qoe) == episodes.episodes[int(np.argsort(values)[len(values) // 2])]
    assert timeline_policies(episodes, qoe) == ["dense", "sparse", "bba"]
    good, bad = {qoe.name: values + 1, stalls.name: values}, {qoe.name: values - 1, stalls.name: values + 1}
    more = EpisodeMetrics(episodes.episodes, episodes.values | {"bba": bad, "a": good, "b": bad}, frozenset())
    assert timeline_policies(more, qoe)[-1] == timeline_policies(more, stalls)[-1] == "a"


def test_a_timeline_of_policies_without_stalls(run_folder: Path) -> None:
    replay = read_replay(run_folder / "replay.parquet")
    number = replay.column_names.index("rebuffer_s")
    calm = replay.set_column(number, "rebuffer_s", [np.zeros(len(replay))])
    timeline(calm, replay["episode"].unique().to_pylist()[3], ["bba"], run_folder / "calm.png")
    assert is_png(run_folder / "calm.png")


def test_a_policy_looks_the_same_in_every_plot_and_unlike_the_others() -> None:
    names = ["dense", "sparse", *"abcdef"]
    looks = [(style_of(name, names)["color"], str(style_of(name, names)["linestyle"])) for name in names]
    assert len(set(looks)) == len(names)


def test_drawing_touches_no_global_state(run_folder: Path) -> None:
    settings = dict(mpl.rcParams)
    draw(run_folder)
    assert dict(mpl.rcParams) == settings
    code = "import edgenetllm.report.draw, sys; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
