"""Cloud stage: build the policy, learn from the pool, choose the return-to-go on validation, restore later.

An adaptation is kept under the hash of everything that determines it, in `paths.cache_dir`: another sparsity or method
finds it there and learns nothing again.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger

from edgenetllm.config import Config
from edgenetllm.errors import UserError
from edgenetllm.experience.collect import collect
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.experience.joint_datamodule import JointDataModule, build_datamodule
from edgenetllm.experience.joint_task import JointTask
from edgenetllm.experience.pool import Pool, share_of
from edgenetllm.experience.rollout import play
from edgenetllm.files import atomic_folder, write_json
from edgenetllm.models.adapters import Full, cast_frozen_linears, merge
from edgenetllm.models.decoder import recompute_activations
from edgenetllm.models.joint_module import JointModule
from edgenetllm.models.joint_policy import JointPolicy, build_any_policy
from edgenetllm.models.module import MODULE_KEYS, AdaptationModule, load_adaptation
from edgenetllm.models.policy import DecisionPolicy, Policy
from edgenetllm.models.session import Session
from edgenetllm.models.stored import HASH, read_checkpoint, require_finite, seal_checkpoint, values_hash
from edgenetllm.parts import by_key, value_of
from edgenetllm.pruning.recovery.recover import Ground
from edgenetllm.run import Run
from edgenetllm.stages.identity import adaptation_hash, adaptation_identity, bf16, data_options, without_seed
from edgenetllm.stages.improvement import EXPERT_FOLDER, improved_policy, keep_improved
from edgenetllm.stages.ranks import release_ranks, spawn_ranks
from edgenetllm.stages.store import alone, is_stored, seal
from edgenetllm.stages.threads import threads_of_a_rank
from edgenetllm.stages.trainer import build_trainer, count_devices, learning
from edgenetllm.tasks.task import Task
from edgenetllm.tracking.loggers import Loggers

FACTS_FILE = "adaptation.json"  # where the adaptation lies, and the return-to-go that validation chose
Pools = Pool | dict[str, Pool]  # by task where there are several


@dataclass
class Adaptation:
    dense: Policy  # merged, float32
    target_return: float | dict[str, float]  # by task where there are several
    facts: dict[str, Any]  # adaptation.json
    source: Path  # the folder whose checkpoints it stands on

    def target_of(self, task: str) -> float:
        return value_of(self.target_return, task)


def build_module(config: Config, target_return: float | dict[str, float], in_bf16: bool) -> AdaptationModule:
    """The pretrained backbone with fresh adapters, encoder and head; `in_bf16` rounds its frozen matrices to bfloat16."""
    L.seed_everything(config.seed, verbose=False)
    rounded = in_bf16 and not isinstance(config.adapter, Full)
    backbone = config.model.load(torch.bfloat16 if rounded else torch.float32)
    config.adapter.attach(backbone.decoder, config.seed)
    if in_bf16:
        cast_frozen_linears(backbone.decoder, torch.bfloat16)
    if config.trainer.gradient_checkpointing:
        recompute_activations(backbone.decoder)
    policy = build_any_policy(backbone.decoder, config.task, backbone.embedding_rms)
    options: dict[str, Any] = {
        "backbone": backbone.identity,
        "adapter_lr": config.trainer.adapter_lr,
        "task_lr": config.trainer.task_lr,
        "weight_decay": config.trainer.weight_decay,
        "warmup_steps": config.trainer.warmup_steps,
        "total_steps": config.budget.epochs * config.budget.batches_per_epoch,
        **learning(config),
    }
    if isinstance(target_return, dict):
        assert isinstance(policy, JointPolicy)
        assert isinstance(config.task, JointTask)
        return JointModule(policy, config.task, target_returns=target_return, **options)
    return AdaptationModule(policy, config.task, target_return=target_return, **options)


def collect_pool(config: Config, loggers: Loggers | None = None) -> Pools:
    """The pool (of each task) of this configuration, or the share of it that is learnt from; collected where the cache does
    not have it. The `loggers` get the curve of the improvement of its policy."""

    def collect_one(part: Config) -> Pool:
        folder = part.paths.cache_dir / "pools"
        improved = improved_policy(part, loggers)
        pool = collect(
            part.task,
            part.experience.shares,
            part.pool_seed,
            folder,
            part.experience.workers,
            improved,
            data_options(part),
            part.experience.backend,
        )
        return share_of(pool, part.experience.fraction, part.pool_seed)

    return config.each(collect_one)


def make_datamodule(config: Config, pool: Pools) -> PoolDataModule | JointDataModule:
    return build_datamodule(
        config.task,
        pool,
        batch_size=config.trainer.batch_size,
        batches_per_epoch=config.budget.batches_per_epoch,
        seed=config.seed,
        accumulate=config.trainer.accumulate,
        val_share=limit if isinstance(limit := config.trainer.limit_val_batches, float) else 1.0,
    )


def adapt(config: Config, run: Run, pool: Pools, loggers: Loggers) -> Adaptation:
    """The dense parent: from the store, or by fitting (or going on with it), and then kept there before anything is pruned.

    Two processes that want the same adaptation wait for each other: the second finds what the first has learnt.
    """
    store = adaptation_store(config)
    with alone(store, "adaptation"):
        if is_stored(store):
            print(f"adaptation: found {store}, learnt before with the same data, settings and code", flush=True)
            release_ranks()
            write_facts(run.folder, read_facts(store), parent=store)
            return restore(config, run.folder)
        run.note(adaptation=store.name)
        adaptation = _fit(config, run, pool, loggers)
        publish(run.folder, store)
        return adaptation


def check_resumed(config: Config, run: Run) -> None:
    """Raises UserError where this run began to learn from other data or with other code: what it would end with, and keep for
    others to find, would be neither's."""
    name = adaptation_store(config).name
    if (run.folder / "checkpoints" / "last.ckpt").exists() and run.state().get("adaptation") != name:
        raise UserError(
            f"resume: {run.folder} learnt from other data, or with other code, library versions or number of threads "
            f"(now {threads_of_a_rank(config)}; trainer.threads), than there are now; start it again without resume"
        )


def adaptation_store(config: Config) -> Path:
    """The folder in which an adaptation of this configuration is kept, whether it is there or not."""
    digest = adaptation_hash(config, bf16(config))
    return config.paths.cache_dir / "adaptations" / f"{config.task.name}-{digest}"


def publish(folder: Path, store: Path) -> None:
    """Keep a finished adaptation, without the optimizer's state, for other runs to find."""
    facts = read_facts(folder)
    with atomic_folder(store) as temporary:
        (temporary / "checkpoints").mkdir()
        torch.save(trained_checkpoint(folder), temporary / "checkpoints" / "best.ckpt")
        if (folder / EXPERT_FOLDER).is_dir():
            shutil.copytree(folder / EXPERT_FOLDER, temporary / EXPERT_FOLDER)
        write_json(temporary / FACTS_FILE, {**facts, "adapted_in": ".", HASH: values_hash(facts)})
        seal(temporary)


def trained_checkpoint(folder: Path) -> dict[str, Any]:
    """The best checkpoint of a run or of the store, sealed, without the optimizer's state."""
    checkpoint = read_checkpoint(folder / "checkpoints" / "best.ckpt")
    kept = {key: checkpoint[key] for key in MODULE_KEYS if key in checkpoint}
    seal_checkpoint(kept)
    return kept


def _fit(config: Config, run: Run, pool: Pools, loggers: Loggers) -> Adaptation:
    """Fit, or go on fitting, and choose the return-to-go with the checkpoint that validation chose."""
    devices = count_devices(config)
    with spawn_ranks(run.folder, devices, threads_of_a_rank(config)) as wait_for_ranks:
        facts = fit(config, run.folder, pool, loggers, wait_for_ranks)
    dense = _restore(config, run.folder, bf16(config))
    dense.to(config.trainer.device)
    chosen = {
        name: choose_target_return(part, dense.part(name), candidates(part, value_of(pool, name)))
        for name, part in config.parts.items()
    }
    identity = without_seed(adaptation_identity(config, bf16(config)), run.follows_seed)
    facts = (by_key(chosen) if config.joint else chosen[config.task.name]) | facts | {"identity": identity}
    facts |= {"improved": improved} if (improved := keep_improved(config, run.folder)) else {}
    dense.to("cpu")
    write_facts(run.folder, facts)
    return Adaptation(dense, facts["target_return"], facts, run.folder)


def candidates(config: Config, pool: Pool) -> np.ndarray:
    """The returns-to-go that are tried, (targets,)."""
    return np.quantile(pool.returns, config.evaluation.targets)


def fit(
    config: Config, folder: Path, pool: Pools, loggers: list[Logger] | None, wait_for_ranks: Callable[[], object]
) -> dict[str, Any]:
    """What every rank does: learn, or go on from the last checkpoint in `folder`; returns facts for `adaptation.json`.

    `loggers` are None on every rank but the first; `wait_for_ranks` is called before the ranks join: see `spawn_ranks`.
    Raises UserError where the fit ended without a validation, on which the checkpoint is chosen.
    """
    target_return = config.each(lambda part: float(np.median(candidates(part, value_of(pool, part.task.name)))))
    module = build_module(config, target_return, bf16(config))
    trainer = build_trainer(config, folder, loggers)
    wait_for_ranks()
    last = folder / "checkpoints" / "last.ckpt"
    trainer.fit(
        module,
        datamodule=make_datamodule(config, pool),
        ckpt_path=last if last.exists() else None,
        weights_only=True,
    )
    if not (folder / "checkpoints" / "best.ckpt").is_file():
        raise UserError(
            f"the fit ended after {trainer.global_step} steps without a validation, on which the checkpoint is chosen: "
            "type other limits for the Trainer (trainer.max_time, trainer.max_steps, trainer.check_val_every_n_epoch)"
        )
    return {"backbone": module.backbone, "epochs": trainer.current_epoch, "bf16": bf16(config)}


def choose_target_return(config: Config, dense: DecisionPolicy, targets: np.ndarray) -> dict[str, Any]:
    """Play the validation episodes with each candidate and keep the best; test data is not touched."""
    task, sign = config.task, 1 if config.task.metric.higher_is_better else -1
    tried = []
    for quantile, target in zip(config.evaluation.targets, targets, strict=True):
        score = validate(task, dense, float(target))
        tried.append({"quantile": quantile, "target_return": float(target), f"val/{task.metric.name}": score})
    chosen = max(tried, key=lambda row: sign * row[f"val/{task.metric.name}"])
    return {"target_return": chosen["target_return"], "tried": tried}


def scores(config: Config, policy: Policy, adaptation: Adaptation) -> dict[str, float]:
    """Of each task's metric over its validation episodes, and last `config.task.metric`, which a search optimises."""
    policy.to(config.trainer.device)
    found = {
        name: validate(part.task, policy.part(name), adaptation.target_of(name)) for name, part in config.parts.items()
    }
    if not isinstance(config.task, JointTask):
        return {config.task.metric.name: found[config.task.name]}
    named = {config.task.logged(name, part.task.metric.name): found[name] for name, part in config.parts.items()}
    return {**named, config.task.metric.name: config.task.gain(found)}


def validate(task: Task, policy: DecisionPolicy, target_return: float) -> float:
    """Mean of the task's metric over the validation episodes, greedy."""
    episodes = play(task.environment("val"), task.seeds("val"), Session(policy, target_return, "validation"))
    return float(task.summarise(episodes.record, episodes.reward, episodes.valid)[task.metric.name].mean())


def restore(config: Config, folder: Path) -> Adaptation:
    """The dense parent of a train or prune run.

    Raises UserError when the run has no finished adaptation, or when it is damaged, was altered or is not finite.
    """
    if not (folder / FACTS_FILE).is_file():
        raise UserError(f"run={folder}: no {FACTS_FILE}, its adaptation has not finished (go on with resume=true)")
    facts, source = read_facts(folder), adapted_in(folder)
    if not (source / "checkpoints" / "best.ckpt").is_file():
        raise UserError(f"run={folder}: its adaptation {source}/checkpoints/best.ckpt is gone")
    return Adaptation(_restore(config, source, facts["bf16"]), facts["target_return"], facts, source)


def write_facts(folder: Path, facts: dict[str, Any], parent: Path | None = None) -> None:
    """`adaptation.json` of a run: its own adaptation, or that of the `parent` run that it was pruned from."""
    source = folder if parent is None else adapted_in(parent)
    where = os.path.relpath(source.resolve(), folder.resolve())
    write_json(folder / FACTS_FILE, {**facts, "adapted_in": where, HASH: values_hash(facts)})


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts in `adaptation.json`, without the place of the adaptation.

    Raises UserError where it is damaged, altered or not finite.

    That of an older version has no hash, and only has to be finite.
    """
    path = folder / FACTS_FILE
    try:
        facts = json.loads(path.read_text())
        del facts["adapted_in"]
        sealed = facts.pop(HASH, None)
        target_return = facts["target_return"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    if sealed is not None and sealed != values_hash(facts):
        raise UserError(f"{path} is damaged or was altered (its hash differs)")
    require_finite(target_return, f"{path}: target_return")
    return dict(facts)


def adapted_in(folder: Path) -> Path:
    """The folder whose checkpoints a run stands on."""
    return (folder / json.loads((folder / FACTS_FILE).read_text())["adapted_in"]).resolve()


def start_policy(config: Config, adaptation: Adaptation) -> Policy:
    """What is pruned: a copy of the dense parent, or with `prune_base_keep_adapter` the base with its adapter beside it."""
    if config.pruning.lora == "merge_then_prune":
        return copy.deepcopy(adaptation.dense)
    return _restore(config, adaptation.source, adaptation.facts["bf16"], merged=False)


def _restore(config: Config, folder: Path, in_bf16: bool, merged: bool = True) -> Policy:
    """With the frozen matrices that it was adapted with, whatever this processor would choose."""
    module = build_module(config, config.each(lambda _: 0.0), in_bf16)
    load_adaptation(module, str(folder / "checkpoints" / "best.ckpt"))
    if merged:
        merge(module.policy.decoder)
    return module.policy.float().eval()


def ground(config: Config, pool: Pools, loggers: Loggers) -> Ground:
    """What a recovery works with."""
    return Ground(
        config.task,
        pool,
        seed=config.seed,
        accelerator=config.trainer.accelerator,
        bf16=bf16(config),
        progress=config.callbacks.progress_bar,
        loggers=loggers,
    )
