"""Names by content: a hash of everything that determines a result, so that it is computed once and found again.

What an option influences stands at the option (`affects.py`), which code counts in `code_identity.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from edgenetllm.affects import Stage, options_for
from edgenetllm.code_identity import code_identity
from edgenetllm.config import Config, TaskConfig
from edgenetllm.experience.objective import data_hash
from edgenetllm.models.stored import read_checkpoint, values_hash
from edgenetllm.nodes import locate, targets_in
from edgenetllm.stages.calibration_text import embedded_text
from edgenetllm.stages.threads import ranks_of, threads_of, threads_of_a_rank
from edgenetllm.tasks.task import LEARNT_FROM, classes_of, identity_of

LIBRARIES = ("torch", "transformers", "peft", "lightning", "numpy", "numba")
# What a fit runs: modules with all that they import of this package, and the stages alone, which import every other stage.
FIT = (
    "edgenetllm.experience.collect",
    "edgenetllm.experience.datamodule",
    "edgenetllm.models.module",
    "edgenetllm.models.checkpoint",
    "edgenetllm.models.patience",
    "edgenetllm.models.sharding",
)
FIT_STAGES = (
    "edgenetllm.stages.adaptation",
    "edgenetllm.stages.fitting",
    "edgenetllm.stages.pool",
    "edgenetllm.stages.validation",
    "edgenetllm.stages.trainer",
    "edgenetllm.stages.rank",
    "edgenetllm.stages.ranks",
)
PRUNE = ("edgenetllm.pruning.callback", "edgenetllm.pruning.recovery.recover", "edgenetllm.edge.bundle")
PRUNE_STAGES = ("edgenetllm.stages.sparsify", "edgenetllm.stages.calibration_text")
REPLAY = ("edgenetllm.edge.replay", "edgenetllm.edge.engine")
DATA_GROUPS = ("task.", "data.")  # groups whose options determine the hash of the test data


def bf16(config: Config) -> bool:
    """True where the backbone is multiplied in bfloat16."""
    if config.trainer.precision != "auto":
        return config.trainer.precision == "bf16"
    if config.trainer.accelerator == "gpu":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported())


def adaptation_identity(config: Config, computed_in_bf16: bool) -> dict[str, Any]:
    """Everything that determines an adaptation, flat: options by their dotted keys, as typed, and facts behind them."""
    searches = [of_task.experience.expert for of_task in config.tasks.values()]
    searches = [type(search) for search in searches if search is not None]
    tasks = [one for task in config.task_objects.values() for one in classes_of(task)]
    roots: list[type | str] = [*tasks, type(config.model), type(config.adapter), *searches, *added_code(config), *FIT]
    return {
        **options_for("adaptation", config.settings, Config),
        "trainer.threads": threads_of_a_rank(config),
        "trainer.ranks": ranks_of(config),
        "trainer.bf16": computed_in_bf16,
        "backbone": config.model.fingerprint(),
        "data.learnt": data_hash(config.task_objects, LEARNT_FROM),
        "code": code_identity(*roots, alone=FIT_STAGES),
        **_versions(),
    }


def added_code(config: Config) -> list[str]:
    """Modules of added callbacks, Trainer, optimizer and scheduler; libraries are known by their versions."""
    trainer = {"_target_": config.trainer.target, **config.trainer.added}
    module = {"_target_": config.module.target, **config.module.added}
    fitting = {name: config.callbacks.nodes.get(name) for name in ("best", "last", "early_stopping")}
    nodes = [fitting, config.callbacks.added, trainer, module, config.module.optimizer, config.module.scheduler]
    modules = [locate(target).__module__ for target in targets_in(nodes)]
    return [name for name in modules if name.partition(".")[0] not in LIBRARIES]


def adaptation_hash(config: Config, computed_in_bf16: bool) -> str:
    """The hash under which an adaptation is kept."""
    return _digest(adaptation_identity(config, computed_in_bf16))


def without_seed(identity: dict[str, Any], follows_seed: Collection[str]) -> dict[str, Any]:
    """An identity without the training seed, and without the options that are set to it by interpolation (`${seed}`)."""
    return {key: value for key, value in identity.items() if key != "seed" and key not in follows_seed}


def pruned_identity(
    config: Config,
    adaptation: dict[str, Any] | None,
    follows_seed: Collection[str] = (),
    pruned_from: dict[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Everything that determines a bundle but its training seed, flat; None where the adaptation's own is not known.

    `adaptation` is its identity without the seed; `pruned_from`, the identity of the bundle that is pruned further.
    """
    if adaptation is None:
        return None
    facts = {
        "pruning.code": code_identity(type(config.pruning.method), type(config.recovery), *PRUNE, alone=PRUNE_STAGES),
        "pruning.bf16": bf16(config),
        "pruning.threads": threads_of(config),
        "pruning.accelerator": config.trainer.accelerator,
        **({} if pruned_from is None else {"pruning.from": _digest(pruned_from)}),
        **({} if (text := embedded_text(config)) is None else {"pruning.embedded_text": values_hash(text)}),
    }
    return {**adaptation, **without_seed(_options_of("pruning", config), follows_seed), **facts}


def evaluated_identity(
    config: Config, pruned: dict[str, Any] | None, follows_seed: Collection[str] = ()
) -> dict[str, Any] | None:
    """Everything that determines the results of a bundle but its training seed and the test data, whose hash stands apart."""
    if pruned is None:
        return None
    tasks = [one for task in config.task_objects.values() for one in classes_of(task)]
    facts = {
        "evaluation.code": code_identity(*tasks, type(config.engine), *REPLAY),
        "evaluation.accelerator": config.trainer.accelerator,
        "evaluation.threads": threads_of(config),
        **{f"evaluation.{name}": fact for name, fact in config.engine.facts().items()},
    }
    return {**pruned, **without_seed(_options_of("evaluation", config), follows_seed), **facts}


def _options_of(stage: Stage, config: Config) -> dict[str, Any]:
    """The options whose first influence is on this stage, but for those that the hash of the test data stands for."""
    before: Stage = "adaptation" if stage == "pruning" else "pruning"
    known = options_for(before, config.settings, Config)
    options = options_for(stage, config.settings, Config)
    return {key: value for key, value in options.items() if key not in known and not key.startswith(DATA_GROUPS)}


def expert_hash(config: TaskConfig) -> str:
    """The hash of all that determines an expert: data, options, code."""
    classes = [*classes_of(config.task), type(config.experience.expert), type(config.task.teacher())]
    own = config.settings["experience"]["expert"]
    node = own if "_target_" in own else own[config.task.name]
    return _digest(
        {
            "search": options_for("pool", {"expert": node}, Config),
            "task": data_options(config),
            "teacher": identity_of(config.task.teacher()),
            "seed": config.pool_seed,
            "data": config.task.data_hash(LEARNT_FROM),
            "code": code_identity(*classes),
            "versions": {name: metadata.version(name) for name in ("torch", "numpy", "numba", "cmaes")},
        }
    )


def data_options(config: TaskConfig) -> dict[str, Any]:
    """Options of the task and its data that can change what an episode is, and what is recorded of it."""
    return options_for("pool", {group: config.settings[group] for group in ("task", "data")}, Config)


def replay_hash(config: TaskConfig, split: str, policy: dict[str, Any], code: Sequence[type] = ()) -> str:
    """The hash of a policy (of what identifies it; none for bounds) and of its episodes; `code`: classes behind it."""
    settings = {group: config.settings[group] for group in ("task", "data")}
    return _digest(
        {
            "settings": options_for("evaluation", settings, Config),
            "split": split,
            "policy": policy,
            "data": config.task.data_hash(),
            "code": code_identity(*classes_of(config.task), *code, "edgenetllm.edge.replay"),
            "versions": {name: metadata.version(name) for name in ("torch", "numpy", "numba")},
        }
    )


def trained_hash(checkpoint: Path) -> str:
    """The hash of the trained tensors in a checkpoint, whatever else is stored with them."""
    return values_hash(read_checkpoint(checkpoint)["state_dict"])


def _versions() -> dict[str, str]:
    return {f"library.{name}": metadata.version(name) for name in LIBRARIES}


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:24]
