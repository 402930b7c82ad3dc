"""Replay on test data, then results, table, plots and the experiment logger: the end of every stage."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from edgenetllm.config import Config, TaskConfig
from edgenetllm.edge.encoding import Values
from edgenetllm.edge.engines.torch import TorchEngine
from edgenetllm.edge.export import zeros_of_task
from edgenetllm.edge.module import EdgeModule
from edgenetllm.edge.replay import replay
from edgenetllm.edge.replay_log import DECISIONS, log_episodes
from edgenetllm.errors import UserError
from edgenetllm.experience.datamodule import EpisodeDataModule
from edgenetllm.experience.episodes_file import pack_episodes, unpack_episodes
from edgenetllm.experience.rollout import Episodes
from edgenetllm.hashed import say_unusable, store_file, stored_file
from edgenetllm.locks import exclusive
from edgenetllm.models.label import model_label
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.models.session import Session
from edgenetllm.models.stored import trained_hash
from edgenetllm.printable import say
from edgenetllm.pruning.oneshot import assert_zeros
from edgenetllm.report.draw import draw
from edgenetllm.report.episodes import write_episodes_of
from edgenetllm.report.provenance import git_state, versions
from edgenetllm.report.results import (
    RESULTS_FILE,
    Placed,
    Results,
    describe_metrics,
    differences,
    estimates,
    fraction_of_bound,
    retention,
)
from edgenetllm.report.summary import episode_table, summaries
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import Adaptation
from edgenetllm.stages.expert import expert_of
from edgenetllm.stages.guarded import describe_guarded, guarded_player, play_guarded
from edgenetllm.stages.identity import Player, evaluated_identity, replay_hashes
from edgenetllm.stages.latency import decision_latencies
from edgenetllm.stages.lineage import made_bundle, used_bundle
from edgenetllm.stages.placed import clock_notes, describe_placed, engine_times, placed_rows
from edgenetllm.stored_arrays import arrays_once
from edgenetllm.tasks.names import GUARDED
from edgenetllm.tasks.task import Array, Policy, Task, identity_of
from edgenetllm.tracking.loggers import Loggers
from edgenetllm.tracking.tracking import log_identity, log_results

FLOATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def evaluate_bundle(
    config: Config,
    run: Run,
    adaptation: Adaptation,
    bundle: Path,
    logger: Loggers,
    timings: dict[str, float],
    pruned: dict[str, Any] | None,
    recovery: dict[str, Any] | None,
    sizes: dict[str, Any],
    identity: dict[str, Any] | None,
    more: Mapping[str, Mapping[str, Policy]] = MappingProxyType({}),
) -> None:
    """Play every test episode of every task with dense model, bundle, baselines and `more` of them (by task), and report.

    `pruned`, `recovery`, `sizes` and `identity` are the bundle's. What the dense model and the baselines do is kept in
    `paths.cache_dir` and not played again by the next run of the same adaptation on the same episodes. The results of a
    task lie in a folder of its own.
    """
    identity = evaluated_identity(config, identity, run.follows_seed)
    facts = (pruned, recovery, sizes, identity)
    several = len(config.tasks) > 1
    reports: dict[str, Results] = {}
    per_episode: dict[str, dict[str, Any]] = {}
    for name, of_task in config.tasks.items():
        task_run = run.of_task(name)
        model = model_name(task_run.settings) + (f" ({config.task_name})" if several else "")
        reports[name], per_episode[name] = _evaluate_task(
            of_task, task_run, adaptation, bundle, model, timings, *facts, more.get(name, {})
        )
    figures = summaries(reports)
    for name, task in config.task_objects.items():
        table = episode_table(reports[name], per_episode[name], task.episode_names("test"))
        prefix = f"{name}/" if several else ""
        log_results(logger, figures[name], table, run.of_task(name).folder, prefix)
        log_identity(logger, reports[name], prefix)
    if several:
        say(f"bundle of {config.task_name}: {bundle}")
    if run.stage == "evaluate":
        used_bundle(config, logger, bundle)
    else:
        made_bundle(config, logger, adaptation, reports, bundle)


def _evaluate_task(
    config: TaskConfig,
    run: Run,
    adaptation: Adaptation,
    bundle: Path,
    model: str,
    timings: dict[str, float],
    pruned: dict[str, Any] | None,
    recovery: dict[str, Any] | None,
    sizes: dict[str, Any],
    identity: dict[str, Any] | None,
    more: Mapping[str, Policy],
) -> tuple[Results, dict[str, Any]]:
    """Replay, results, table and plots of one task, in its folder. Also returns policy -> metric -> (episodes,)."""
    # The policies: dense model, bundle (whose zeros are those of the pruning), baselines, expert.
    task = config.task
    sample_seed = config.evaluation.sample_seed if config.evaluation.sample else None
    logged = config.evaluation.log
    progress = config.callbacks.progress
    edge = EdgeModule(bundle, task, config.engine, sample_seed, progress=progress, keep_observations=logged)
    by_torch = type(config.engine) is TorchEngine
    reference = cast(Session, edge.session) if by_torch else TorchEngine().load(bundle, task, sample_seed)
    sparse = reference.policy
    dense, dense_target = adaptation.dense.of_task(task.name), adaptation.target_returns[task.name]
    layers: dict[str, Any] = (pruned or {}).get("layers", {})
    assert_zeros(sparse, zeros_of_task(layers, list(adaptation.target_returns), task.name))
    parent = Session(dense, dense_target, "dense", sample_seed)
    agent = guarded_player(config, edge.session)
    rows = placed_rows(config, bundle, edge.session, reference, parent)
    policies: dict[str, Policy] = {
        "dense": parent,
        "sparse": edge.session,
        **({} if agent is None else {GUARDED: agent}),
        **task.baselines(),
        **expert_of(config, adaptation.source, adaptation.facts),
        **more,
    }
    # A bundle that is the dense model itself is played once.
    one_model = config.sparsity == 0 and by_torch and is_rounded(sparse, dense, config.export.values)
    notes = [*task.notes(), *clock_notes(config)]
    if one_model:
        notes.append(f"sparsity=0: the bundle is the dense model with values in {config.export.values}, played once")
    # The replay on the device of the run; the sparse model by Lightning's Trainer.
    began = time.perf_counter()
    dense.to(config.trainer.device)
    stored = {name: one for name, one in policies.items() if name not in ("sparse", GUARDED)}
    played = _replay(config, stored, adaptation)
    if one_model and not logged:
        played["sparse"] = played["dense"]
    else:
        _edge_trainer(config).test(edge, datamodule=EpisodeDataModule(task), verbose=False)
        [played["sparse"]] = edge.episodes
    if agent is not None:
        played[GUARDED] = play_guarded(config, agent)
    net = None if agent is None else describe_guarded(agent, played[GUARDED])
    own_columns = {} if agent is None else {GUARDED: agent.columns()}
    played = {name: played[name] for name in policies}
    # Metrics, bounds, and the time of a decision on the CPU, as at the edge.
    for module in (dense, sparse, edge):
        module.to("cpu")
    timings = {**timings, "replay": time.perf_counter() - began}
    milliseconds = decision_latencies(config, run.folder.parent, edge.session, reference, parent, agent)
    # The same models where a placement puts them: their decisions take the time that was just measured, and that of a link.
    placed: Placed | None = None
    if rows is not None:
        began = time.perf_counter()
        dense.to(config.trainer.device)
        times = engine_times(config, milliseconds)
        placed_players = rows.play(times)
        dense.to("cpu")
        placed = describe_placed(config, rows, times, placed_players)
        played |= {name: episodes for name, (_, episodes) in placed_players.items()}
        own_columns |= {name: {"decision_ms": 1e3 * one.column("seconds")} for name, (one, _) in placed_players.items()}
        timings["placement"] = time.perf_counter() - began
    per_episode = {name: task.summarise(e.record, e.reward, e.valid) for name, e in played.items()}
    bounds = bounds_of(config) if config.evaluation.bounds else {}
    # The results, and the files of the run that are made from them.
    results = Results(
        stage=run.stage,
        task=task.name,
        model=model,
        data=data_name(run.settings["data"]),
        run=str(run.folder.parent),
        seed=config.seed,
        sparsity=config.sparsity,
        pruning=pruned,
        recovery=recovery,
        metrics=describe_metrics(task.metrics),
        policies=estimates({**per_episode, **bounds}, task.metrics),
        differences=differences(per_episode, task.metric),
        retention=retention(per_episode["sparse"], per_episode["dense"], task.metrics),
        bound=fraction_of_bound(per_episode, bounds, task.metric),
        bundle=sizes,
        timings_s=timings,
        engine=config.engine.label,
        decision_ms=milliseconds,
        versions=versions(),
        git=git_state(),
        config_hash=run.config_hash,
        data_hash=task.data_hash(),
        identity=identity,
        timeline=task.timeline,
        guarded=net,
        placement=placed,
        notes=notes,
    )
    write_episodes_of(run.folder, task, played, per_episode, bounds, own_columns)
    if logged:
        log_episodes(run.folder / DECISIONS, task, played["sparse"], "sparse")
    results.save(run.folder / RESULTS_FILE)
    draw(run.folder, plots=config.evaluation.plots, trusted=[task.timeline.partition(".")[0]])
    return results, per_episode


def _edge_trainer(config: TaskConfig) -> L.Trainer:
    """The Trainer of the edge evaluation: one process, also where several have learnt."""
    return L.Trainer(
        accelerator=config.trainer.accelerator,
        devices=1,
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def data_name(data: dict[str, Any]) -> str:
    """`fcc`, where a set has settings `tpch/default`, with another video than usual `fcc/video2`."""
    usual = data.get("video") in ("video1", "synthetic")
    return "/".join(
        str(data[key]) for key in ("name", "setting", "video") if key in data and not (key == "video" and usual)
    )


def model_name(settings: dict[str, Any]) -> str:
    """The model's name in results, which keeps apart what is compared apart.

    `smollm2`; with other weights `smollm2-random`; adapted on a fraction of the pool `smollm2 on 1% of the pool`; and where
    it does not choose greedily `smollm2, sampled`.
    """
    weights = settings["model"].get("weights", "pretrained")
    fraction = settings["experience"].get("fraction", 1)
    name = model_label(settings["model"]) + ("" if weights == "pretrained" else f"-{weights}")
    name += "" if fraction == 1 else f" on {100 * fraction:.3g}% of the pool"
    return f"{name}, sampled" if settings["evaluation"]["sample"] else name


def is_rounded(bundle: PolicyNetwork, dense: PolicyNetwork, values: Values) -> bool:
    """True where a bundle's policy is the dense one, each tensor exact or rounded to the type of the stored values.

    Never with integers, whose scales make another model of it.
    """
    if values not in FLOATS:
        return False
    stored, exact = bundle.state_dict(), dense.state_dict()
    dtype = FLOATS[values]
    if stored.keys() != exact.keys():
        return False
    return all(
        torch.equal(stored[name], exact[name]) or torch.equal(stored[name], exact[name].to(dtype).to(exact[name].dtype))
        for name in stored
    )


def _replay(config: TaskConfig, policies: Mapping[str, Policy], adaptation: Adaptation) -> dict[str, Episodes]:
    """The test episodes played by the dense model and the baselines, from the store where it has them."""
    # Everything that determines what the dense model does.
    dense = {
        "weights": trained_hash(adaptation.source / "checkpoints" / "best.ckpt"),
        "target": adaptation.target_returns[config.task.name],
        "sample": config.evaluation.sample_seed if config.evaluation.sample else None,
        "backbone": [config.model.fingerprint(), adaptation.facts["backbone"], adaptation.facts["bf16"]],
        "adapter": config.settings["adapter"],
        "library": {name: versions()[name] for name in ("transformers", "peft")},
        "accelerator": config.trainer.accelerator,
        "threads": config.compute.threads,
    }
    # A file for each policy, by content.
    players = {
        name: Player({"baseline": identity_of(policy)}, [type(policy)])
        for name, policy in policies.items()
        if name != "dense"
    }
    players["dense"] = Player(dense, [type(policies["dense"]), type(config.model), type(config.adapter)])
    place, hashes = config.paths.cache_dir / "replays", replay_hashes(config, "test", players)
    files = {name: place / f"{config.task.name}-{name}-{hashes[name]}.npz" for name in policies}
    # One lock, that of the dense model: two runs of one adaptation need the same and play it once.
    with exclusive(files["dense"], "replay"):
        replayed = {name: one for name, path in files.items() if (one := _stored(config.task, path)) is not None}
        missing = {name: policy for name, policy in policies.items() if name not in replayed}
        played = replay(
            config.task,
            "test",
            missing,
            config.callbacks.progress,
            config.experience.workers,
            config.experience.backend,
        )
        for name, episodes in played.items():
            store_file(files[name], pack_episodes(episodes))
    return replayed | played


def _stored(task: Task, path: Path) -> Episodes | None:
    """The test episodes in a file of the store; None where there is none, or (which is said) none that can be used."""
    if (data := stored_file(path)) is None:
        return None
    try:
        episodes = unpack_episodes(data)
        if len(episodes.valid) != len(task.seeds("test")):
            raise UserError(f"it has {len(episodes.valid)} episodes")
    except UserError as error:
        say_unusable(path, str(error))
        return None
    return episodes


def bounds_of(config: TaskConfig) -> dict[str, dict[str, Array]]:
    """The bounds that no policy can exceed on the test episodes, from the store or computed for it."""
    task, progress = config.task, config.callbacks.progress

    def compute() -> dict[str, Array]:
        figures_by_bound = task.bounds("test", progress)
        return {
            f"{name}/{metric}": values
            for name, figures in figures_by_bound.items()
            for metric, values in figures.items()
        }

    digest = replay_hashes(config, "test", {"bounds": Player({})})["bounds"]
    path = config.paths.cache_dir / "bounds" / f"{task.name}-{digest}.npz"
    bounds: dict[str, dict[str, Array]] = {}
    for key, values in arrays_once(path, compute, "bounds").items():
        name, _, metric = key.rpartition("/")
        bounds.setdefault(name, {})[metric] = values
    return bounds
