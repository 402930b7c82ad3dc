"""A metric is whatever `summarise` says, in every plot, table and interval; names cannot take another's place."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from report.toy_task import EPISODES, TAIL, WORST, Queue, QueueEnvironment, QueueTask, run_of

from edgenetllm.compare.runs import find_runs
from edgenetllm.compare.sections import make_sections
from edgenetllm.compare.seeds import main as seeds_main
from edgenetllm.compare.study import make_study
from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.report.bootstrap import mean_ci
from edgenetllm.report.draw import draw
from edgenetllm.report.episodes import read_metrics, read_replay, write_metrics, write_replay
from edgenetllm.stages.check_task import check_task


@pytest.fixture
def two_seeds(tmp_path):
    folders = [tmp_path / "logs" / f"seed{seed}" for seed in (1, 2)]
    return folders, [run_of(QueueTask(), folder, seed) for seed, folder in enumerate(folders, 1)]


def test_every_metric_of_every_episode_is_stored_as_summarise_says(two_seeds):
    (folder, _), (said, _) = two_seeds
    stored = read_metrics(folder / "metrics.parquet", QueueTask.metrics)
    assert stored.episodes == QueueTask().episode_names("test")
    assert list(stored.values) == ["dense", "sparse", "fair", "optimum"]
    for policy, metrics in said.per_episode.items():
        for name, values in metrics.items():
            np.testing.assert_array_equal(stored.values[policy][name], values)
    assert (stored.bounds, list(stored.values["optimum"])) == ({"optimum"}, ["wait_s"])
    assert "optimum" not in stored.of(TAIL)
    table = pq.read_table(folder / "metrics.parquet")
    assert table.column_names == ["policy", "episode", "seed", "bound", "wait_s", "worst_s"]
    assert table["seed"].to_pylist() == [*range(EPISODES)] * 4
    assert table["worst_s"].null_count == EPISODES
    # The column of the replay that has the metric's name is another thing.
    assert read_replay(folder / "replay.parquet")["wait_s"].to_numpy().min() > 1e6


def test_the_cdf_shows_the_metric(two_seeds, monkeypatch):
    (folder, _), (said, _) = two_seeds
    shown = {}
    monkeypatch.setattr("edgenetllm.report.plots.draw_cdf", lambda samples, *words: shown.update({words: samples}))
    draw(folder)
    ((words, samples),) = shown.items()
    assert words == ("wait, 90th percentile", "s", "episode", False, folder / "plots" / "wait_s_cdf.png")
    assert {name: list(values) for name, values in samples.items()} == {
        name: list(metrics["wait_s"]) for name, metrics in said.per_episode.items()
    }


def test_table_and_plots_are_drawn_again(two_seeds):
    (folder, _), (said, _) = two_seeds
    draw(folder)
    assert (folder / "plots" / "wait_s_cdf.png").is_file()
    assert f"{said.per_episode['sparse']['wait_s'].mean():.3f} [" in (folder / "table.md").read_text()


def test_page_study_and_seed_table_have_the_mean_and_interval_of_the_metric(two_seeds, tmp_path, capsys):
    folders, said = two_seeds
    values = np.stack([one.per_episode["sparse"]["wait_s"] for one in said])
    expected = mean_ci(values, resamples=500)
    (section,) = make_sections(find_runs([tmp_path / "logs"])[0], resamples=500)
    (group,) = section.groups
    assert group.figures.basis == "seeds × episodes"
    assert group.figures.metric.mean == pytest.approx(expected.mean)
    assert group.figures.metric.ci95 == pytest.approx(expected.ci95)
    assert section.baselines["optimum"].mean == pytest.approx(0.01)
    study = make_study([tmp_path / "logs"], resamples=500)
    assert study.cells[0].metric == group.figures.metric
    assert study.references[-1].name == "optimum"
    assert seeds_main([str(folder) for folder in folders]) == 0
    assert f"| sparse | {expected.mean:.3f} [" in capsys.readouterr().out


def test_a_run_of_an_older_version_is_not_given_wrong_numbers(two_seeds, capsys):
    (folder, other), _ = two_seeds
    (folder / "metrics.parquet").unlink()
    with pytest.raises(UserError, match=r"metrics\.parquet: no such file; .* evaluate it again"):
        draw(folder)
    assert seeds_main([str(folder), str(other)]) == 2
    assert "evaluate it again" in capsys.readouterr().err


@pytest.mark.parametrize("column", ["step", "policy", "episode", "action", "reward", "return_to_go", "decision_ms"])
def test_a_record_column_that_a_replay_has_is_refused_at_the_first_step(monkeypatch, column):
    monkeypatch.setattr(QueueEnvironment, "extra", {column: np.zeros(EPISODES)})
    steps = []
    with pytest.raises(UserError, match=rf"toy_task\.QueueEnvironment\.record\(\): the column '{column}'"):
        play(QueueEnvironment(), np.arange(3), Queue("fair", 0.5), on_step=lambda: steps.append(1))
    assert not steps
    with pytest.raises(UserError, match=rf"the column '{column}'"):
        check_task(QueueTask())


def test_a_replay_is_not_written_with_columns_of_the_index(tmp_path):
    shape = (2, 3)
    rows = {"bba": {"action": np.ones(shape), "reward": np.ones(shape), "step": np.zeros(shape)}}
    with pytest.raises(UserError, match="step"):
        write_replay(tmp_path / "r", rows, ["a", "b"], dict.fromkeys(rows, np.ones(shape, bool)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "../queue"}, r"QueueTask\.name: the name '\.\./queue'"),
        ({"metrics": (TAIL, SimpleNamespace(name="../../x"))}, r"metrics: the name '\.\./\.\./x'"),
        ({"metrics": (TAIL, SimpleNamespace(name="episode"))}, "'episode' is taken"),
        ({"metrics": (TAIL, TAIL)}, "two are called 'wait_s'"),
        ({"baselines": lambda self: {"a/b": None}}, r"baselines\(\): the name 'a/b'"),
        ({"baselines": lambda self: {"..": None}}, r"the name '\.\.'"),
        ({"baselines": lambda self: {"dense": None}}, "'dense' is the name of our own model"),
        ({"episode_names": lambda self, split: ["a"] * EPISODES}, "two episodes are called 'a'"),
        ({"episode_names": lambda self, split: ["a"]}, f"1 names for {EPISODES} episodes"),
    ],
)
def test_names_that_would_take_anothers_place_are_refused_before_a_run(monkeypatch, change, reason):
    check_task(QueueTask())
    for name, value in change.items():
        monkeypatch.setattr(QueueTask, name, value)
    with pytest.raises(UserError, match=reason):
        check_task(QueueTask())


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"worst_s": np.ones(2)}, "says nothing of wait_s for dense"),
        ({"wait_s": np.ones(3), "worst_s": np.ones(2)}, r"wait_s of dense must be .* shape \(3,\)"),
        ({"wait_s": np.array([1, np.nan]), "worst_s": np.ones(2)}, "1 values that are not finite"),
    ],
)
def test_what_summarise_must_say(tmp_path, said, reason):
    with pytest.raises(ValueError, match=reason):
        write_metrics(tmp_path / "m", {"dense": said}, {}, (TAIL, WORST), ["a", "b"], np.arange(2))


def test_a_bound_cannot_take_a_policys_place(tmp_path):
    values = {"wait_s": np.ones(2)}
    with pytest.raises(UserError, match="both called 'bba'"):
        write_metrics(tmp_path / "m", {"bba": values}, {"bba": values}, (TAIL,), ["a", "b"], np.arange(2))


def test_files_that_are_not_of_the_run(tmp_path, run_folder):
    with pytest.raises(UserError, match=r"the columns \['wait_s'\] are missing"):
        read_metrics(run_folder / "metrics.parquet", [TAIL])
    (tmp_path / "text").write_text("policy,episode\n")
    with pytest.raises(UserError, match="not a readable parquet"):
        read_metrics(tmp_path / "text", [TAIL])
