"""Plots come from the two files alone, show the right numbers, and leave matplotlib's global state as it was."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from report.conftest import METRICS

from edgenetllm.code_identity import modules_of
from edgenetllm.compare.__main__ import main
from edgenetllm.plotting import style_of
from edgenetllm.report.draw import draw
from edgenetllm.report.episodes import EpisodeMetrics, read_metrics, read_replay
from edgenetllm.report.plots import draw_plots, timeline_policies, typical_episode
from edgenetllm.report.results import Results
from edgenetllm.tasks.abr.task import AbrTask
from edgenetllm.tasks.abr.timeline import timeline
from edgenetllm.tasks.cjs.task import CjsTask

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
    assert main([str(tmp_path)]) == 2
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


TIMELINE = """
from pathlib import Path

REQUIRED = ("buffer_s",)

def timeline(replay, episode, policies, path):
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text(f"{episode} {','.join(policies)} {len(replay)}")
"""


def foreign(folder: Path, results: Results, text: str = TIMELINE) -> str:
    """Let results name a module in a package of somebody else's; returns the name of the package."""
    package = folder.parent / f"lab_{folder.name}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "streams.py").write_text(text)
    changed = results.model_copy(update={"task": "streams", "timeline": f"{package.name}.streams"})
    changed.save(folder / "results.json")
    return package.name


def test_a_task_of_another_package_brings_its_own_timeline(
    run_folder: Path, results: Results, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = foreign(run_folder, results)
    monkeypatch.syspath_prepend(run_folder.parent)
    plot = run_folder / "plots" / "timeline.png"
    assert main([str(run_folder)]) == 0
    assert f"note: no timeline: {package}.streams would draw it" in (said := capsys.readouterr().err)
    assert f"--trust {package}" in said
    assert package not in sys.modules  # nothing of it ran
    assert not plot.exists()
    assert (run_folder / "plots" / "qoe_cdf.png").is_file()
    assert main([str(run_folder), "--trust", package]) == 0
    assert plot.read_text().endswith(f"dense,sparse,bba {3 * 12 * 6}")
    assert "no timeline" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "why"),
    [("import nowhere_at_all\n", "cannot be imported"), ("REQUIRED = ()\n", "no REQUIRED and timeline")],
)
def test_a_timeline_that_cannot_be_drawn_is_noted(
    run_folder: Path,
    results: Results,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    why: str,
) -> None:
    package = foreign(run_folder, results, text)
    monkeypatch.syspath_prepend(run_folder.parent)
    assert "timeline" not in draw(run_folder, trusted=[package])
    assert why in capsys.readouterr().err


def test_results_say_which_module_draws_the_timeline(run_folder: Path, results: Results) -> None:
    replay = read_replay(run_folder / "replay.parquet")
    episodes = read_metrics(run_folder / "metrics.parquet", list(results.metrics.values()))
    for task, module, drawn in (
        ("abr", None, True),  # of an older version
        ("abr", "", False),
        ("streams", AbrTask.timeline, True),
        ("streams", None, False),
    ):
        changed = results.model_copy(update={"task": task, "timeline": module})
        assert ("timeline" in draw_plots(changed, episodes, replay, run_folder)) == drawn
    with pytest.raises(ValueError, match="timeline"):
        results.model_copy(update={"timeline": "os; import sys"}).save(run_folder / "results.json")


def test_a_timeline_is_no_part_of_what_the_results_of_a_task_depend_on() -> None:
    for task in (AbrTask, CjsTask):
        assert task.timeline not in modules_of(task)
        assert import_module(task.timeline).REQUIRED
