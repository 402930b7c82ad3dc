"""Runs that never met name the same artifacts, so that W&B joins them: pool -> adaptation -> pruned -> bundle.

Five runs with a tiny model, offline: train, train again at another sparsity (its adaptation is found in the cache), prune,
evaluate what was pruned, and prune further.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import ROOT
from test_config import settings
from tracking.offline_run import Offline, sittings
from tracking.wandb_server import listening
from typed import surroundings

from edgenetllm.config import load_config
from edgenetllm.edge.bundle import read_bundle
from edgenetllm.run import Run
from edgenetllm.stages.evaluate import evaluate
from edgenetllm.stages.prune import prune
from edgenetllm.stages.train import train

FOLDERS = ("train", "again", "prune", "evaluate", "further")


def small(folder: Path) -> list[str]:
    quiet = [
        "callbacks.progress_bar=false",
        "trainer.threads=1",
        "evaluation.plots=false",
        "evaluation.validation=false",
    ]
    few = ["data.train=30", "data.val=4", "data.test=3", "engine.latency_decisions=5"]
    return ["experiment=debug", "logger=wandb", f"paths.cache_dir={folder}/cache", *quiet, *few]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lineage")

    def job(stage, name: str, *overrides: str) -> None:
        resolved = settings(*small(folder), *overrides)
        stage(load_config(resolved), Run(folder / name, stage.__name__, resolved, {"task": "abr"}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        job(train, "train", "logger.upload=[pool,adaptation,bundle]")
        job(train, "again", "sparsity=0.6", "logger.upload=[pool,adaptation,bundle]")
        job(prune, "prune", f"run={folder}/train", "sparsity=0.7", "pruning=magnitude")
        job(evaluate, "evaluate", f"run={folder}/prune", "sparsity=0.7", "pruning=magnitude")
        job(prune, "further", f"run={folder}/prune", "sparsity=0.8", "pruning=magnitude", "pruning.force=true")
    return folder


@pytest.fixture(scope="module")
def logged(folder) -> dict[str, Offline]:
    return {name: sittings(folder / name)[0] for name in FOLDERS}


def of(kind: str, artifacts: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in artifacts.items() if name.startswith(f"{kind}-abr-")}


def kinds(artifacts: dict[str, str]) -> set[str]:
    return {name.partition("-")[0] for name in artifacts}


@pytest.mark.slow
def test_each_stage_says_what_it_used_and_what_it_made(logged):
    assert {name: (kinds(run.used()), kinds(run.made())) for name, run in logged.items()} == {
        "train": ({"pool"}, {"adaptation", "pruned", "bundle"}),
        "again": ({"pool", "adaptation"}, {"pruned", "bundle"}),
        "prune": ({"pool", "adaptation"}, {"pruned", "bundle"}),
        "evaluate": ({"bundle"}, set()),
        "further": ({"pool", "adaptation", "bundle"}, {"pruned", "bundle"}),
    }


def test_what_one_run_uses_is_what_another_made(logged):
    """Name and digest: W&B keeps one version of two such artifacts. The store's checkpoint is another file than the run's."""
    made = of("adaptation", logged["train"].made())
    assert of("adaptation", logged["again"].used()) == made
    assert of("pool", logged["again"].used()) == of("pool", logged["train"].used())
    assert set(of("adaptation", logged["prune"].used())) == set(made)
    assert logged["evaluate"].used() == of("bundle", logged["prune"].made()) == of("bundle", logged["further"].used())


def test_different_things_have_different_names(logged):
    bundles = [name for run in logged.values() for name in of("bundle", run.made())]
    assert len(set(bundles)) == len(bundles) == 4


def test_the_metadata_names_the_parent_and_the_figures(logged, folder):
    run = logged["prune"]
    results = json.loads((folder / "prune" / "abr/results.json").read_text())
    pruned, _ = run.artifact("pruned")
    bundle, _ = run.artifact("bundle")
    assert pruned["made_from"] == list(of("adaptation", run.used()))
    assert bundle["made_from"] == list(of("pruned", run.made()))
    assert (pruned["pruning"], pruned["sparsity"]) == ("magnitude", 0.7)
    assert pruned["zeros"] == results["bundle"]["zeros"]
    assert bundle["test/qoe"] == results["policies"]["sparse"]["test/qoe"]["mean"]
    assert bundle["bundle/mb"] == results["bundle"]["bytes"] / 1e6
    adaptation, _ = logged["train"].artifact("adaptation")
    assert adaptation["made_from"] == list(of("pool", logged["train"].used()))
    assert len(bundle) < 100  # what W&B takes


def test_only_what_is_asked_for_is_uploaded(logged):
    described = {"pool": {"pool.json"}, "adaptation": {"adaptation.json"}, "bundle": {"manifest.json"}}
    files = {"columns.npz", "checkpoints/best.ckpt", "dense.safetensors", "sparse.safetensors"}
    for name, wanted in (("train", ("pool", "adaptation", "bundle")), ("prune", ("adaptation", "bundle"))):
        for kind, documents in described.items():
            metadata, contents = logged[name].artifact(kind)
            assert documents <= set(contents)
            assert bool(files & set(contents)) == metadata["files_uploaded"] == (kind in wanted)


def test_every_file_that_a_sync_will_read_is_there(logged):
    for run in logged.values():
        for artifact in run.artifacts:
            for entry in artifact.manifest.contents:
                assert Path(entry.local_path).stat().st_size == entry.size


def test_an_uploaded_adaptation_and_bundle_can_be_used(logged, folder):
    (adaptation,) = [a for a in logged["train"].artifacts if a.type == "adaptation"]
    paths = {entry.path: entry.local_path for entry in adaptation.manifest.contents}
    uploaded = torch.load(paths["checkpoints/best.ckpt"], weights_only=True)
    own = torch.load(folder / "train/checkpoints/best.ckpt", weights_only=True)
    assert uploaded["backbone"] == own["backbone"]
    assert set(uploaded["state_dict"]) == set(own["state_dict"])
    assert all(torch.equal(tensor, own["state_dict"][name]) for name, tensor in uploaded["state_dict"].items())
    (bundle,) = [a for a in logged["train"].artifacts if a.type == "bundle"]
    assert (
        len({Path(e.local_path).name for e in bundle.manifest.contents})
        == len(read_bundle(folder / "train/bundle").manifest.files) + 1
    )


def test_wandb_sync_uploads_an_offline_run_whole(folder, logged, tmp_path):
    """By W&B's own command: config, group, history, table, artifacts made, and artifacts used, which are no run's output."""
    run = logged["prune"]
    (path,) = (folder / "prune" / "wandb").glob("offline-run-*")
    with listening() as server:
        command = [str(Path(sys.executable).parent / "wandb"), "sync", str(path)]
        there = server.surroundings(tmp_path)
        result = subprocess.run(
            command, cwd=tmp_path, env=there, capture_output=True, text=True, check=False, timeout=120
        )
    assert result.returncode == 0, result.stdout + result.stderr
    setup = server.all("UpsertBucket")[0]
    assert (setup["name"], setup["groupName"], setup["jobType"]) == (run.id, run.group, "prune")
    assert json.loads(setup["config"])["sparsity"] == {"value": 0.7}
    created = {sent["input"]["artifactCollectionName"]: sent["input"] for sent in server.all("CreateArtifact")}
    assert {name: created[name]["runName"] for name in run.used()} == dict.fromkeys(run.used())
    assert {name: created[name]["runName"] for name in run.made()} == dict.fromkeys(run.made(), run.id)
    assert {sent["input"]["artifactID"] for sent in server.all("UseArtifact")} == set(run.used())
    assert all(created[name]["digest"] == digest for name, digest in (run.used() | run.made()).items())
    assert any(name.startswith("media/table/test/table") for s in server.all("CreateRunFiles") for name in s["files"])
    streamed = [sent["files"] for sent in server.all("file_stream") if "files" in sent]
    summary = json.loads([f["wandb-summary.json"]["content"][-1] for f in streamed if "wandb-summary.json" in f][-1])
    assert {"test/qoe", "bundle/mb", "edge/decision_ms"} <= set(summary)


@pytest.mark.slow
def test_the_jobs_of_a_sweep_are_groups_by_what_it_varies(folder, tmp_path):
    """As typed: the sweep is a tag, and every job is closed before the next one starts."""
    overrides = [
        *small(folder),
        "logger.upload=[]",
        f"paths.log_dir={tmp_path}",
        "hydra.sweep.dir=${paths.log_dir}/night",
    ]
    command = [sys.executable, str(ROOT / "train.py"), "-m", *overrides, "sparsity=0.3,0.5"]
    result = subprocess.run(
        command, cwd=tmp_path, env=surroundings(), capture_output=True, text=True, check=False, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    jobs = [sittings(path.parent)[0] for path in sorted((tmp_path / "night").glob("*/run.json"))]
    assert [(job.job_type, job.exit_code) for job in jobs] == [("train", 0)] * 2
    assert len({job.group for job in jobs}) == 2
    for job, sparsity in zip(jobs, (0.3, 0.5), strict=True):
        assert job.config["sparsity"] == sparsity
        assert all(f"sparsity={sparsity}" in said for said in (job.group, job.name, job.tags))
        assert "night" in job.tags
        assert job.config["folder"].startswith("night/")
    assert all(job.config["pruning"] == "alps" for job in jobs)
    assert len({job.id for job in jobs}) == 2
    assert all("adaptation" in kinds(job.used()) for job in jobs)
