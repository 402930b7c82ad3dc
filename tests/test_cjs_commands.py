"""Cluster scheduling through the same three commands: train, prune again, replay on another cluster."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typed import TINY, call, runs

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.experience.pool import read_pool
from edgenetllm.report.results import Results

CJS = ["task=cjs", *TINY, "data.setting=tiny", "task.test=5", "task.validation=2", "evaluation.bounds=true"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline_cjs")
    output = call("train.py", folder, *CJS)
    assert "5 executors, 4 jobs" in output
    return folder


def test_a_run_leaves_table_plots_bundle_and_every_decision(trained):
    run = runs(trained, "train")[0]
    results = Results.load(run / "cjs/results.json")
    assert results.data == "synthetic_dags/tiny"
    assert list(results.metrics) == ["test/jct_s", "test/jct_p95_s", "test/makespan_s"]
    assert {"dense", "sparse", "fair", "decima", "tuned_rule", "lower_bound"} <= set(results.policies)
    assert results.policies["sparse"]["test/jct_s"].n == 5
    assert results.differences["fair"].n == 5
    assert results.policies["lower_bound"]["test/jct_s"].mean < results.policies["sparse"]["test/jct_s"].mean
    assert "sparse − this" in (run / "cjs/table.md").read_text()
    for name in ("replay.parquet", "plots/jct_s_cdf.png", "plots/timeline.png"):
        assert (run / "cjs" / name).stat().st_size > 0
    assert read_bundle(run / "bundle").manifest.task == "cjs"
    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert any(".encoder.graph." in name for name in checkpoint["state_dict"])
    pool = read_pool(next((trained / "cache" / "pools").glob("cjs-*[!k]")))
    assert pool.reference is not None
    facts = json.loads((run / "adaptation.json").read_text())
    quantiles = np.quantile(pool.returns, [row["quantile"] for row in facts["tried"]["cjs"]])
    np.testing.assert_allclose([row["target_return"] for row in facts["tried"]["cjs"]], quantiles)
    assert facts["target_return"]["cjs"] in quantiles


@pytest.mark.slow
def test_another_sparsity_and_another_cluster_from_the_same_adaptation(trained):
    parent = runs(trained, "train")[0]
    call("prune.py", trained, f"run={parent}", "sparsity=0.6", "pruning=magnitude", "logger=csv")
    pruned = runs(trained, "prune")[-1]
    dense = [
        Results.load(folder / "cjs/results.json").policies["dense"]["test/jct_s"].mean for folder in (parent, pruned)
    ]
    assert dense[0] == pytest.approx(dense[1])
    call("evaluate.py", trained, f"run={parent}", "data.executors=9", "data.jobs=6", "logger=csv")
    elsewhere = Results.load(runs(trained, "evaluate")[-1] / "cjs/results.json")
    assert elsewhere.data_hash != Results.load(parent / "cjs/results.json").data_hash
    assert elsewhere.policies["sparse"]["test/jct_s"].n == 5


@pytest.mark.slow
def test_job_profiles_of_the_user_are_trained_on_moved_and_replayed(tmp_path):
    """`data=folder` of task=cjs; a later command finds the same jobs at another place, and other data too."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    stages = {
        "map": {"tasks": 6, "durations_ms": [800, 900]},
        "join": {"tasks": 2, "needs": ["map"], "durations_ms": [400]},
    }
    (jobs / "etl.json").write_text(json.dumps({"stages": stages}))
    (jobs / "query.json").write_text(json.dumps({"stages": {"map": stages["map"]}}))
    call("train.py", tmp_path, *CJS, "data=folder", f"data.path={jobs}")
    (parent,) = runs(tmp_path, "train")
    trained = Results.load(parent / "cjs/results.json")
    assert trained.data == "folder/tiny"

    jobs.rename(tmp_path / "moved")
    call("evaluate.py", tmp_path, f"run={parent}", f"data.path={tmp_path}/moved", "logger=csv")
    moved = Results.load(runs(tmp_path, "evaluate")[-1] / "cjs/results.json")
    assert moved.data_hash == trained.data_hash
    assert moved.policies["sparse"] == trained.policies["sparse"]

    call("evaluate.py", tmp_path, f"run={parent}", "data=synthetic_dags", "data.setting=tiny", "logger=csv")
    assert Results.load(runs(tmp_path, "evaluate")[-1] / "cjs/results.json").data == "synthetic_dags/tiny"


def test_a_missing_profile_is_said_before_anything_starts(trained, tmp_path):
    folder = tmp_path / "cjs" / "tpch" / "2g"
    folder.mkdir(parents=True)
    for query in range(1, 23):
        (folder / f"adj_mat_{query}.npy").write_bytes(b"")
    output = call("train.py", tmp_path, *TINY, "task=cjs", "data=tpch", f"paths.data_dir={tmp_path}", ok=False)
    assert "lacks 286 of 308 files, such as 2g/task_duration_1.npy" in output
    assert not (tmp_path / "logs" / "train").exists() or not list((tmp_path / "logs" / "train").glob("*/checkpoints"))
