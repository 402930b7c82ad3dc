"""Replay on test data, then results, table, plots and the experiment logger: the end of every stage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lightning.pytorch.loggers import Logger

from edgenetllm.config import Config
from edgenetllm.edge.engine import load_policy
from edgenetllm.edge.replay import decision_times, replay
from edgenetllm.experience.episodes_file import read_episodes, write_episodes
from edgenetllm.experience.rollout import Column, Episodes
from edgenetllm.models.joint_policy import move
from edgenetllm.models.label import model_label
from edgenetllm.models.session import Session
from edgenetllm.pruning.oneshot import assert_zeros
from edgenetllm.reporting.draw import draw
from edgenetllm.reporting.provenance import git_state, versions
from edgenetllm.reporting.replay_file import write_replay
from edgenetllm.reporting.results import (
    RESULTS_FILE,
    Results,
    describe_metrics,
    differences,
    estimates,
    latency,
    retention,
    share_of_bound,
)
from edgenetllm.reporting.summary import episode_table, summaries
from edgenetllm.reporting.tracking import log_results
from edgenetllm.run import LOCATIONS, Run
from edgenetllm.stages.adaptation import Adaptation
from edgenetllm.stages.export import policy_name
from edgenetllm.stages.identity import replay_hash, trained_hash, without
from edgenetllm.stages.improvement import improved_beside
from edgenetllm.stages.lineage import made_bundle, used_bundle
from edgenetllm.stages.store import alone, arrays_once
from edgenetllm.tasks.task import Array, Baseline


def assess(
    config: Config,
    run: Run,
    adaptation: Adaptation,
    bundle: Path,
    logger: Logger,
    timings: dict[str, float],
    pruned: dict[str, Any] | None,
    recovery: dict[str, Any] | None,
    sizes: dict[str, Any],
    more: Mapping[str, Mapping[str, Baseline]] = MappingProxyType({}),
) -> None:
    """Play every test episode (of every task) with dense model, bundle, baselines and `more` of them (by task), and report.

    `pruned`, `recovery` and `sizes` are the bundle's. What the dense model and the baselines do is kept in
    `paths.cache_dir` and not played again by the next run of the same adaptation on the same episodes. A run of several tasks
    leaves the results of each in a folder of its own.
    """
    found: dict[str, tuple[Results, dict[str, Any]]] = {}
    for name, part in config.parts.items():
        of_task = run.part(name)
        dense, target_return = adaptation.dense.part(name), adaptation.target_of(name)
        own = replace(adaptation, dense=dense, target_return=target_return)
        model = _model_name(of_task.settings) + (f" ({config.task.name})" if config.joint else "")
        beside = more.get(name, {})
        results, per_episode = _assess(part, of_task, own, bundle, model, timings, pruned, recovery, sizes, beside)
        found[name] = results, per_episode
    reports = {name: results for name, (results, _) in found.items()}
    figures = summaries(reports)
    for name, (results, per_episode) in found.items():
        table = episode_table(results, per_episode, config.parts[name].task.episode_names("test"))
        log_results(logger, figures[name], table, run.part(name).folder, f"{name}/" if config.joint else "")
    if config.joint:
        print(f"bundle of {config.task.name}: {bundle}", flush=True)
    if run.stage == "evaluate":
        used_bundle(config, logger, bundle)
    else:
        made_bundle(config, logger, adaptation, reports, bundle)


def results_file(config: Config, folder: Path) -> Path:
    """Where a run in `folder` says how it was pruned; one of several tasks says so in the results of each."""
    return folder / next(iter(config.joint), "") / RESULTS_FILE


def _assess(
    config: Config,
    run: Run,
    adaptation: Adaptation,
    bundle: Path,
    model: str,
    timings: dict[str, float],
    pruned: dict[str, Any] | None,
    recovery: dict[str, Any] | None,
    sizes: dict[str, Any],
    more: Mapping[str, Baseline],
) -> tuple[Results, dict[str, Any]]:
    """Of one task: replay, results, table and plots in the run's folder. Also returns policy -> metric -> (episodes,)."""
    task = config.task
    sparse, target_return = load_policy(bundle, task)
    dense = adaptation.dense.part(task.name)
    layers: dict[str, Any] = (pruned or {}).get("layers", {})
    assert_zeros(sparse, {policy_name(name): counts["zeros"] for name, counts in layers.items()})
    sample_seed = config.evaluation.sample_seed if config.evaluation.sample else None
    policies: dict[str, Baseline] = {
        "dense": Session(dense, adaptation.target_of(task.name), "dense", sample_seed),
        "sparse": Session(sparse, target_return, "sparse", sample_seed),
        **task.baselines(),
        **improved_beside(config, adaptation.source),
        **more,
    }
    began = time.perf_counter()
    for policy in (dense, sparse):
        move(policy, config.trainer.device)
    played = _replay(config, run, policies, adaptation)
    for policy in (dense, sparse):
        move(policy, "cpu")  # what a decision takes is said of the edge
    timings = {**timings, "replay": time.perf_counter() - began}
    per_episode = {name: task.summarise(e.record, e.reward, e.valid) for name, e in played.items()}
    bounds = _bounds(config, run) if config.evaluation.bounds else {}
    milliseconds = {
        f"torch {name}": latency(decision_times(task, "test", policies[name], config.engine.latency_decisions))
        for name in ("dense", "sparse")
    }
    results = Results(
        stage=run.stage,
        task=task.name,
        model=model,
        data=_data_name(run.settings["data"]),
        run=str(run.folder),
        seed=config.seed,
        sparsity=config.sparsity,
        pruning=pruned,
        recovery=recovery,
        metrics=describe_metrics(task.metrics),
        policies=estimates({**per_episode, **bounds}, task.metrics),
        differences=differences(per_episode, task.metric),
        retention=retention(per_episode["sparse"], per_episode["dense"], task.metrics),
        bound=share_of_bound(per_episode, bounds, task.metric),
        bundle=sizes,
        timings_s=timings,
        decision_ms=milliseconds,
        versions=versions(),
        git=git_state(),
        config_hash=run.config_hash,
        data_hash=task.data_hash(),
    )
    results.save(run.folder / RESULTS_FILE)
    write_replay(
        run.folder / "replay.parquet",
        {name: _columns(episodes) for name, episodes in played.items()},
        task.episode_names("test"),
        {name: episodes.valid for name, episodes in played.items()},
    )
    draw(run.folder, plots=config.evaluation.plots)
    return results, per_episode


def _data_name(data: dict[str, Any]) -> str:
    """`fcc`, where a set has settings `tpch/default`, with another video than usual `fcc/video2`."""
    usual = data.get("video") in ("video1", "synthetic")
    return "/".join(
        str(data[key]) for key in ("name", "setting", "video") if key in data and not (key == "video" and usual)
    )


def _model_name(settings: dict[str, Any]) -> str:
    """`smollm2`; with other weights `smollm2-random`, adapted on a share of the pool `smollm2 on 1% of the pool`, and where
    it does not choose greedily `smollm2, sampled`: what is compared apart."""
    weights = settings["model"].get("weights", "pretrained")
    fraction = settings["experience"].get("fraction", 1)
    name = model_label(settings["model"]) + ("" if weights == "pretrained" else f"-{weights}")
    name += "" if fraction == 1 else f" on {100 * fraction:.3g}% of the pool"
    return f"{name}, sampled" if settings["evaluation"]["sample"] else name


def _replay(config: Config, run: Run, policies: Mapping[str, Baseline], adaptation: Adaptation) -> dict[str, Episodes]:
    """All policies over the test episodes; all but the sparse model from the store, where they are there."""
    dense = {
        "weights": trained_hash(adaptation.source / "checkpoints" / "best.ckpt"),
        "target": adaptation.target_return,
        "sample": config.evaluation.sample_seed if config.evaluation.sample else None,
        "model": without(run.settings["model"], LOCATIONS),
        "adapter": run.settings["adapter"],
        "torch": versions()["torch"],
        "accelerator": config.trainer.accelerator,
    }
    files = {
        name: config.paths.cache_dir / "replays" / f"{config.task.name}-{name}-{digest}.npz"
        for name in policies
        if name != "sparse"
        for digest in [
            replay_hash(config, run, "test", dense if name == "dense" else {"baseline": repr(policies[name])})
        ]
    }
    # One lock, that of the dense model: two runs of one adaptation need the same and play it once.
    with alone(files["dense"], "replay"):
        found = {name: read_episodes(path) for name, path in files.items() if path.is_file()}
        missing = {name: policy for name, policy in policies.items() if name not in found and name in files}
        played = replay(config.task, "test", missing, config.callbacks.progress_bar)
        for name, episodes in played.items():
            write_episodes(files[name], episodes)
    played |= replay(config.task, "test", {"sparse": policies["sparse"]}, config.callbacks.progress_bar)
    return {name: (found | played)[name] for name in policies}


def _bounds(config: Config, run: Run) -> dict[str, dict[str, Array]]:
    """What no policy can exceed on the test episodes, from the store or computed for it."""
    task, progress = config.task, config.callbacks.progress_bar

    def compute() -> dict[str, Array]:
        found = task.bounds("test", progress)
        return {f"{name}/{metric}": values for name, figures in found.items() for metric, values in figures.items()}

    path = config.paths.cache_dir / "bounds" / f"{task.name}-{replay_hash(config, run, 'test', {})}.npz"
    bounds: dict[str, dict[str, Array]] = {}
    for key, values in arrays_once(path, compute, "bounds").items():
        name, _, metric = key.rpartition("/")
        bounds.setdefault(name, {})[metric] = values
    return bounds


def _columns(episodes: Episodes) -> dict[str, Column]:
    columns: dict[str, Column] = {"action": episodes.action, "reward": episodes.reward, **episodes.record}
    if episodes.return_to_go is not None:
        columns["return_to_go"] = episodes.return_to_go
    return columns
