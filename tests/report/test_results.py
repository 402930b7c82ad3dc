"""results.json has the documented fields, comes back as it was, and says what is wrong with it when it is wrong."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgenetllm.errors import UserError
from edgenetllm.report.draw import draw
from edgenetllm.report.provenance import git_state, versions
from edgenetllm.report.results import Results, fraction_of_bound, latency
from edgenetllm.tasks.task import Metric

METRIC = {"name": "qoe", "label": "QoE", "unit": "", "higher_is_better": True}
FIELDS = [
    "schema",
    "stage",
    "task",
    "model",
    "data",
    "run",
    "seed",
    "sparsity",
    "pruning",
    "recovery",
    "specialisation",
    "metrics",
    "policies",
    "differences",
    "retention",
    "bound",
    "bundle",
    "timings_s",
    "engine",
    "decision_ms",
    "versions",
    "git",
    "config_hash",
    "data_hash",
    "identity",
    "replay",
    "timeline",
    "guarded",
    "placement",
    "notes",
]


def test_round_trip_and_field_names(run_folder: Path, results: Results) -> None:
    fields = json.loads((run_folder / "results.json").read_text())
    assert list(fields) == FIELDS
    assert set(fields["policies"]["dense"]["test/qoe"]) == {"mean", "ci95", "n"}
    assert set(fields["retention"]["test/qoe"]) == {"mean", "ci95"}
    loaded = Results.load(run_folder / "results.json")
    assert loaded == results
    loaded.save(run_folder / "again.json")
    assert (run_folder / "again.json").read_bytes() == (run_folder / "results.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "schema 2, this version reads 1"),
        ({"sparsity": 1.1}, "sparsity: "),
        ({"stage": "deploy"}, "stage: "),
        ({"task": "../abr"}, "task: "),
        ({"colour": 1}, "colour: "),
        ({"policies": {"bba": {"qoe": {"mean": 1, "ci95": [0, 2], "n": 1}}}}, r"policies\.bba\.qoe"),
        ({"policies": {"bba": {"test/qoe": {"mean": 1, "ci95": [2, 0], "n": 1}}}}, "upside down"),
        ({"seed": None}, "seed: "),
        ({"metrics": {"test/qoe": METRIC | {"name": "../../../x"}}}, r"metrics\.test/qoe.*'\.\./\.\./\.\./x'"),
        ({"metrics": {"test/qoe": METRIC | {"name": "episode"}}}, "'episode' cannot be the name of a metric"),
        ({"metrics": {"test/qoe": METRIC | {"name": "other"}}}, "belongs under test/other"),
        ({"metrics": {"test/qoe": METRIC | {"label": "a\x1b[2J"}}}, "printable"),
        ({"metrics": {"test/../x": METRIC}}, "metrics"),
        ({"policies": {"../bba": {}}}, r"policies\.\.\./bba"),
        ({"policies": {".bba": {}}}, "policies"),
        ({"policies": {"a\nb": {}}}, "policies"),
        ({"bound": {"name": "a/b", "share": {}}}, r"bound\.name"),
        ({"model": "../../tiny"}, "model: "),
        ({"model": "a\\b"}, "model: "),
        ({"model": ".tiny"}, "model: "),
        ({"data": "a\nb"}, "data: "),
        ({"notes": ["a\x00"]}, "notes"),
        ({"identity": [1]}, "identity"),
    ],
)
def test_a_wrong_field_is_named(run_folder: Path, change: dict[str, Any], reason: str) -> None:
    path = run_folder / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"results\.json: .*{reason}"):
        Results.load(path)


def test_no_name_leads_a_plot_out_of_the_run(run_folder: Path) -> None:
    path = run_folder / "results.json"
    fields = json.loads(path.read_text())
    fields["metrics"]["test/qoe"]["name"] = "../../../x"
    path.write_text(json.dumps(fields))
    before = sorted(run_folder.parent.rglob("*"))
    with pytest.raises(UserError, match="cannot be the name of a metric"):
        draw(run_folder)
    assert sorted(run_folder.parent.rglob("*")) == before


def test_a_folder_of_plots_that_is_a_link_is_refused(
    run_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (run_folder / "plots").symlink_to(elsewhere)
    with pytest.raises(UserError, match="a link out of the run's folder"):
        draw(run_folder)
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("change", [{"task": "../abr"}, {"model": "a/b"}, {"policies": {"a/b": {}}}])
def test_what_would_be_refused_is_not_written(tmp_path: Path, results: Results, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        results.model_copy(update=change).save(tmp_path / "new.json")
    assert not (tmp_path / "new.json").exists()


def test_names_in_use_are_taken(results: Results) -> None:
    fields = results.model_dump()
    figures = fields["policies"]["bba"]
    for model in ("smollm2", "smollm2-random on 1% of the pool, sampled", "Llama-2-7b-hf", "tiny (abr+cjs)"):
        for policy in ("robustmpc_tuned", "fixed_1", "optimum", "lower_bound", "sjf_cp_capped"):
            Results.model_validate(fields | {"model": model, "policies": {policy: figures}, "data": "tpch/default"})


def test_what_was_added_is_optional_and_full_sparsity_is_a_result(run_folder: Path, results: Results) -> None:
    path = run_folder / "results.json"
    fields = json.loads(path.read_text())
    del fields["recovery"]
    path.write_text(json.dumps(fields | {"sparsity": 1.0}))
    loaded = Results.load(path)
    assert (loaded.sparsity, loaded.recovery) == (1.0, None)
    recovery = {"method": "specialise", "trained_parameters": 40_000, "rank": None}
    loaded.model_copy(update={"recovery": recovery}).save(path)
    assert Results.load(path).recovery == recovery


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "\x00"])
def test_a_file_that_is_no_result(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=r"results\.json: "):
        Results.load(tmp_path / "results.json")


def test_an_absent_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        Results.load(tmp_path / "results.json")


def test_nan_never_enters(results: Results) -> None:
    fields = results.model_dump()
    fields["timings_s"] = {"train": float("nan")}
    with pytest.raises(ValidationError, match="finite"):
        Results.model_validate(fields)


def test_the_fraction_of_a_bound_is_at_most_one_whatever_the_direction() -> None:
    qoe, jct = Metric("qoe", "QoE", "", True), Metric("jct_s", "JCT", "s", False)
    reached = fraction_of_bound({"bba": {"qoe": [1.0, 2.0]}}, {"optimum": {"qoe": [2.0, 2.0]}}, qoe)
    assert reached.name == "optimum"
    assert reached.share["bba"].mean == pytest.approx(0.75)
    slower = fraction_of_bound({"fair": {"jct_s": [80.0, 120.0]}}, {"lower_bound": {"jct_s": [50.0, 50.0]}}, jct)
    assert slower.share["fair"].mean == pytest.approx(0.5)
    assert fraction_of_bound({"bba": {"qoe": [1.0]}}, {}, qoe) is None


def test_latency_of_a_known_sample() -> None:
    assert latency(range(101)).model_dump() == {"median": 50.0, "p99": 99.0, "n": 101}


def test_versions_name_what_matters() -> None:
    assert {"python", "cpu", "torch", "numpy", "edgenetllm"} <= set(versions())


def test_git_state_follows_the_file(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    file = tmp_path / "a.py"
    file.write_text("1")
    assert git_state(file) is None  # no repository
    git("init")
    assert git_state(file) is None  # not tracked
    git("add", "a.py")
    assert git_state(file) is None  # no commit
    git("commit", "-m", "a", "--no-gpg-sign")
    state = git_state(file)
    assert state is not None
    assert len(state.commit) == 40
    assert not state.dirty
    file.write_text("2")
    state = git_state(file)
    assert state is not None
    assert state.dirty
