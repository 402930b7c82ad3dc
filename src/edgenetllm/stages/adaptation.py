"""The dense parent of a run: learnt, or found in the store, and restored later.

An adaptation is kept under the hash of everything that determines it, in `paths.cache_dir`: another sparsity or method
finds it there and learns nothing again.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from edgenetllm.config import Config
from edgenetllm.earlier import by_task
from edgenetllm.errors import UserError
from edgenetllm.files import atomic_folder, write_json
from edgenetllm.models.adapters import merge
from edgenetllm.models.checkpoint import BEFORE, LAST, make_last_whole
from edgenetllm.models.module import MODULE_KEYS, AdaptationModule, load_adaptation
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.models.stored import (
    HASH,
    read_checkpoint,
    seal_checkpoint,
    values_hash,
    write_checkpoint,
)
from edgenetllm.printable import say
from edgenetllm.pruning.callback import OneShotPruning
from edgenetllm.run import Run
from edgenetllm.stages.adaptation_facts import FACTS_FILE as FACTS_FILE
from edgenetllm.stages.adaptation_facts import stored_facts
from edgenetllm.stages.expert import EXPERT_FOLDER, keep_expert
from edgenetllm.stages.fitting import build_module, facts_of, fit
from edgenetllm.stages.identity import adaptation_key
from edgenetllm.stages.pool import Pools
from edgenetllm.stages.ranks import release_ranks, spawn_ranks
from edgenetllm.stages.store import reserved_folder, seal
from edgenetllm.stages.validation import choose_target_returns
from edgenetllm.tracking.loggers import Loggers


@dataclass(frozen=True)
class Wanted:
    """The adaptation that a run wants: the folder for it in the store, whether it exists or not, and its identity."""

    store: Path
    identity: dict[str, Any]  # without the training seed


@dataclass
class Adaptation:
    dense: PolicyNetwork  # merged, float32
    target_returns: dict[str, float]  # by task
    facts: dict[str, Any]  # adaptation.json
    source: Path  # the folder whose checkpoints it stands on
    pruned: PolicyNetwork | None = None  # what the callback pruned when the fit ended


def wanted_adaptation(config: Config, follows_seed: Collection[str] = ()) -> Wanted:
    """The adaptation of this configuration; options that `follows_seed` count as the training seed."""
    key = adaptation_key(config, config.compute.bf16, follows_seed)
    return Wanted(config.paths.cache_dir / "adaptations" / f"{config.task_name}-{key.digest}", key.identity)


def adapt(
    config: Config, run: Run, wanted: Wanted, pools: Pools, loggers: Loggers, pruning: OneShotPruning
) -> Adaptation:
    """The dense parent: from the store, or by fitting (or going on with it), and then kept there before anything is pruned.

    A fit in one process ends with `pruning`, a callback of its Trainer. Two processes that want the same adaptation wait for
    each other: the second finds what the first has learnt.
    """
    store = wanted.store
    with reserved_folder(store, "adaptation") as is_stored:
        if is_stored:
            say(f"adaptation: found {store}, learnt before with the same data, settings and code")
            release_ranks()
            write_facts(run.folder, read_facts(store), parent=store)
            return restore(config, run.folder)
        run.note(adaptation=store.name)
        return _fit(config, run, wanted, pools, loggers, pruning)


def check_resumed(config: Config, run: Run, wanted: Wanted) -> None:
    """Raises UserError where this run began to learn from other data or with other code: what it would end with, and keep for
    others to find, would be neither's."""
    begun = any((run.folder / "checkpoints" / name).exists() for name in (LAST, BEFORE))
    if begun and run.state().get("adaptation") != wanted.store.name:
        raise UserError(
            f"resume: {run.folder} learnt from other data, or with other code, library versions or number of threads "
            f"(now {config.compute.rank_threads}; trainer.threads), than there are now; start it again without resume"
        )


def publish(folder: Path, store: Path) -> None:
    """Keep a finished adaptation, without the optimizer's state, for other runs to find."""
    facts = read_facts(folder)
    with atomic_folder(store) as temporary:
        write_checkpoint(trained_checkpoint(folder), temporary / "checkpoints" / "best.ckpt")
        if (folder / EXPERT_FOLDER).is_dir():
            shutil.copytree(folder / EXPERT_FOLDER, temporary / EXPERT_FOLDER)
        write_json(temporary / FACTS_FILE, {**facts, "adapted_in": ".", HASH: values_hash(facts)})
        seal(temporary)


def trained_checkpoint(folder: Path) -> dict[str, Any]:
    """The best checkpoint of a run or of the store, sealed, without the optimizer's state."""
    checkpoint = read_checkpoint(folder / "checkpoints" / "best.ckpt")
    trained = {key: checkpoint[key] for key in MODULE_KEYS if key in checkpoint}
    seal_checkpoint(trained)
    return trained


def _fit(
    config: Config, run: Run, wanted: Wanted, pools: Pools, loggers: Loggers, pruning: OneShotPruning
) -> Adaptation:
    """Fit, or go on fitting; in one process, callbacks of the Trainer keep the adaptation and prune when the fit ends."""
    config.compute.check_devices()
    make_last_whole(run.folder / "checkpoints")
    keeper, alone = _KeepAdaptation(config, run, wanted, pools), config.compute.ranks == 1
    with spawn_ranks(run.folder, config.compute.devices, config.compute.rank_threads) as wait_for_ranks:
        module, facts = fit(config, run.folder, pools, loggers, wait_for_ranks, [keeper, pruning] if alone else [])
    if not alone:
        dense = _restore(config, run.folder, config.compute.bf16)
        return keep(config, run, wanted, pools, dense, facts)
    assert keeper.adaptation is not None
    return replace(keeper.adaptation, pruned=module.policy)


class _KeepAdaptation(Callback):
    """Keeps the adaptation when the fit ends, before anything is pruned."""

    def __init__(self, config: Config, run: Run, wanted: Wanted, pools: Pools) -> None:
        self.config, self.run, self.wanted, self.pools = config, run, wanted, pools
        self.adaptation: Adaptation | None = None

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, AdaptationModule)
        facts = facts_of(self.config, trainer, pl_module)
        load_adaptation(pl_module, str(self.run.folder / "checkpoints" / "best.ckpt"))
        dense = _merged(copy.deepcopy(pl_module.policy))
        self.adaptation = keep(self.config, self.run, self.wanted, self.pools, dense, facts)


def keep(
    config: Config, run: Run, wanted: Wanted, pools: Pools, dense: PolicyNetwork, facts: dict[str, Any]
) -> Adaptation:
    """Choose the return-to-go with the checkpoint that validation chose, and keep the adaptation for other runs to find."""
    dense.to(config.trainer.device)
    chosen = choose_target_returns(config, dense, pools)
    facts = chosen | facts | {"identity": wanted.identity}
    facts |= {"expert": expert} if (expert := keep_expert(config, run.folder)) else {}
    dense.to("cpu")
    write_facts(run.folder, facts)
    publish(run.folder, wanted.store)
    return Adaptation(dense, chosen["target_return"], facts, run.folder)


def restore(config: Config, folder: Path) -> Adaptation:
    """The dense parent of a train or prune run.

    Raises UserError when the run has no finished adaptation, or when it is damaged, was altered or is not finite.
    """
    if not (folder / FACTS_FILE).is_file():
        raise UserError(f"run={folder}: no {FACTS_FILE}, its adaptation has not finished (go on with resume=true)")
    facts, source = read_facts(folder), adapted_in(folder)
    facts |= {key: by_task(facts[key], config.tasks) for key in ("target_return", "tried") if key in facts}
    if not (source / "checkpoints" / "best.ckpt").is_file():
        raise UserError(f"run={folder}: its adaptation {source}/checkpoints/best.ckpt is gone")
    targets = facts["target_return"]
    if not isinstance(targets, dict) or set(targets) != set(config.tasks):
        raise UserError(f"run={folder}: the return-to-go {targets} of its adaptation is not that of {config.task_name}")
    return Adaptation(_restore(config, source, facts["bf16"]), targets, facts, source)


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
    facts = stored_facts(path)
    del facts["adapted_in"]
    sealed = facts.pop(HASH, None)
    if sealed is not None and sealed != values_hash(facts):
        raise UserError(f"{path} is damaged or was altered (its hash differs)")
    return facts


def adapted_in(folder: Path) -> Path:
    """The folder whose checkpoints a run stands on. Raises UserError as `read_facts`."""
    place = Path(stored_facts(folder / FACTS_FILE)["adapted_in"])
    if place.is_absolute():
        raise UserError(f"{folder / FACTS_FILE} is damaged: adapted_in is no path from this folder")
    return (folder / place).resolve()


def start_policy(config: Config, adaptation: Adaptation) -> PolicyNetwork:
    """The policy to prune: a copy of the dense parent, or with `prune_base_keep_adapter` the base next to its adapter."""
    if config.pruning.lora == "merge_then_prune":
        return copy.deepcopy(adaptation.dense)
    return _restore(config, adaptation.source, adaptation.facts["bf16"], merged=False)


def _restore(config: Config, folder: Path, in_bf16: bool, merged: bool = True) -> PolicyNetwork:
    """The policy with the frozen matrices that it was adapted with, whatever type this processor would choose."""
    module = build_module(config, dict.fromkeys(config.tasks, 0.0), in_bf16)
    load_adaptation(module, str(folder / "checkpoints" / "best.ckpt"))
    return _merged(module.policy) if merged else module.policy.float().eval()


def _merged(policy: PolicyNetwork) -> PolicyNetwork:
    """The policy with its adapters merged, in place, in float32."""
    merge(policy.decoder)
    return policy.float().eval()
