"""Viewport prediction and forecasting by the commands: trained, shipped, played by every policy, and on other questions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
from typed import TINY, call, runs

import edgenetllm.edge as edge
from edgenetllm.edge.bundle import read_bundle

VP = [*TINY, "task=vp", "budget=questions_quick", "data.train=12", "data.val=2", "data.test=3", "task.patch=5"]


def results_of(run: Path) -> dict:
    return json.loads((run / "vp" / "results.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vp")
    (folder / "printed.txt").write_text(call("train.py", folder, *VP, "edge.guard=true"))
    return folder


@pytest.fixture(scope="module")
def run(folder) -> Path:
    (made,) = runs(folder, "train")
    return made


def test_the_model_is_trained_pruned_shipped_and_compared_with_every_baseline(run):
    results = results_of(run)
    assert set(results["policies"]) == {
        "dense", "sparse", "guarded", "still", "velocity", "linear_regression", "lstm",
    }  # fmt: skip
    error = {name: figures["test/error_deg"]["mean"] for name, figures in results["policies"].items()}
    assert error["sparse"] < error["still"]  # with which its head begins
    assert {"compiled sparse", "torch dense"} <= set(results["decision_ms"])
    assert {path.name for path in (run / "vp" / "plots").iterdir()} >= {"timeline.png", "error_by_horizon.png"}


def test_each_training_question_is_in_the_pool_once_and_an_epoch_goes_once_over_it(run, folder):
    (pool,) = (folder / "cache" / "pools").glob("vp-*/pool.json")
    info = json.loads(pool.read_text())
    assert info["episodes"] == info["decisions"] == 12 * len(range(30, 300 - 60, 5)) == 504
    assert "504 episodes in the pool, 4 epochs of 4 batches of 128 episodes" in (folder / "printed.txt").read_text()


def test_there_is_no_return_to_go(run):
    extra = read_bundle(run / "bundle").manifest.extra
    described = extra["networks"]["vp"]
    assert (described["conditioned"], described["independent"]) == (False, True)
    assert not any("return_to_go" in name for name in read_bundle(run / "bundle").tensors)
    replay = parquet.read_table(run / "vp" / "replay.parquet")
    assert replay["return_to_go"].null_count == len(replay)


def test_the_bundle_answers_without_torch_what_was_replayed(run):
    replay = parquet.read_table(run / "vp" / "replay.parquet").to_pylist()
    rows = [row for row in replay if row["policy"] == "sparse"][:5]
    session = edge.load(run / "bundle").start()
    for row in rows:  # one session: no question depends on the one before
        answer = session.decide({"history": np.reshape(row["history"], (10, 3))})
        np.testing.assert_allclose(answer.ravel(), row["action"], atol=1e-3)


def test_a_longer_horizon_and_a_longer_history_are_played_by_the_same_bundle(run, folder):
    call("evaluate.py", folder, f"run={run}", "data.horizon=30", "data.history=15", "callbacks.progress_bar=false")
    results = results_of(runs(folder, "evaluate")[-1])
    before = results_of(run)["policies"]
    assert results["policies"]["sparse"]["test/error_deg"]["mean"] > before["sparse"]["test/error_deg"]["mean"]
    assert "lstm_of_run" in results["policies"]


def test_what_does_not_fit_is_refused_in_a_sentence(run, folder):
    assert "beyond the 60" in call(
        "evaluate.py", folder, f"run={run}", "data.horizon=45", "task.answer_rows=40", ok=False
    )
    assert "is not for task=abr" in call("train.py", folder, *TINY, "task=abr", "data=synthetic_viewers", ok=False)
    assert "give a number" in call("train.py", folder, *TINY, "task=abr", "budget.batches_per_epoch=null", ok=False)
    refused = call("train.py", folder, *TINY, "task=forecast", "data.path=absent.csv", "data.inputs=[a]", "data.answers=[a]",
                   "data.history=2", "data.horizon=2", ok=False)  # fmt: skip
    assert "nothing lies there" in refused
