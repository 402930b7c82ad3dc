"""The names under which runs are compared do not change unnoticed: saved workspaces and scripts depend on them."""

from __future__ import annotations

import pytest

from edgenetllm.report.results import Bound, Results, Retention, latency
from edgenetllm.report.summary import episode_table, summaries, summarise


@pytest.fixture
def finished(results) -> Results:
    timed = {"torch dense": latency([3.0]), "torch sparse": latency([1.0, 2.0, 9.0])}
    return results.model_copy(update={"decision_ms": timed, "timings_s": {"pool": 2.0, "replay": 3.0}})


def test_the_names_are_these(finished):
    summary = summarise(finished)
    figures = ("qoe", "bitrate_mbps", "rebuffer_s")
    assert set(summary) == {
        *(f"test/{name}" for name in figures),
        *(f"test/{policy}/{name}" for policy in ("bba", "sparse", "dense") for name in figures),
        "test/retention",
        "bundle/mb",
        "edge/decision_ms",
        "edge/dense_decision_ms",
        "edge/torch_decision_ms",
        "time/pool_s",
        "time/replay_s",
    }


def test_the_values_are_those_of_the_sparse_model(finished):
    summary = summarise(finished)
    assert summary["test/qoe"] == summary["test/sparse/qoe"] == finished.policies["sparse"]["test/qoe"].mean
    assert summary["test/dense/qoe"] == finished.policies["dense"]["test/qoe"].mean
    assert summary["test/retention"] == finished.retention["test/qoe"].mean
    assert summary["bundle/mb"] == 38.1
    assert summary["edge/decision_ms"] == 2.0


def test_the_latency_is_that_of_the_chosen_engine_with_torchs_next_to_it(finished):
    times = {"compiled sparse": latency([0.2]), "compiled dense": latency([0.3]), **finished.decision_ms}
    summary = summarise(finished.model_copy(update={"engine": "compiled", "decision_ms": times}))
    names = ("edge/decision_ms", "edge/dense_decision_ms", "edge/torch_decision_ms")
    assert [summary[name] for name in names] == [0.2, 0.3, 2.0]


def test_a_retention_that_says_nothing_is_left_away(finished):
    assert "test/retention" not in summarise(finished.model_copy(update={"retention": {"test/qoe": None}}))


def test_the_fraction_of_a_bound_has_a_name_where_a_bound_is_known(finished):
    reached = Bound(name="optimum", share={"sparse": Retention(mean=0.9, ci95=(0.8, 1.0))})
    assert summarise(finished.model_copy(update={"bound": reached}))["test/of_bound"] == 0.9


def test_the_table_has_a_row_per_policy_and_episode(results):
    values = {name: [1.0, 2.0] for name in ("qoe", "bitrate_mbps", "rebuffer_s")}
    columns, rows = episode_table(results, {"bba": values, "sparse": values}, ["trace a", "trace b"])
    assert columns == ["policy", "episode", "qoe", "bitrate_mbps", "rebuffer_s"]
    assert rows[3] == ["sparse", "trace b", 2.0, 2.0, 2.0]
    assert len(rows) == 4
    assert [row[2] for row in rows] == pytest.approx([1, 2, 1, 2])


def test_in_a_run_of_several_tasks_a_figure_that_all_have_carries_the_tasks_name(finished):
    one = finished
    other = one.model_copy(update={"retention": dict.fromkeys(one.retention), "policies": {"sparse": {}, "dense": {}}})
    found = summaries({"abr": one, "other": other})
    alone = summarise(one)
    assert summaries({"abr": one}) == {"abr": alone}
    assert found["abr"]["test/abr/retention"] == alone["test/retention"]
    assert "test/retention" not in {*found["abr"], *found["other"]}  # though only one of them has it
    assert found["abr"]["test/qoe"] == alone["test/qoe"]
    assert found["other"]["edge/other/decision_ms"] == alone["edge/decision_ms"]
    assert found["other"]["time/other/replay_s"] == 3.0
    assert (found["other"]["time/pool_s"], found["other"]["bundle/mb"]) == (2.0, alone["bundle/mb"])
