"""Names by content: a hash of everything that determines a result, so that it is computed once and found again.

What an option influences stands at the option (`affects.py`), which code counts in `code_identity.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

from edgenetllm.affects import Stage, options_for
from edgenetllm.code_identity import code_identity
from edgenetllm.config import Config, TaskConfig
from edgenetllm.experience.objective import data_hash
from edgenetllm.models.stored import values_hash
from edgenetllm.nodes import locate, targets_in
from edgenetllm.stages.calibration_text import embedded_text
from edgenetllm.stages.logs import logs_hashes
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
    "edgenetllm.stages.finite_budget",
    "edgenetllm.stages.fitting",
    "edgenetllm.stages.pool",
    "edgenetllm.stages.validation",
    "edgenetllm.stages.trainer",
    "edgenetllm.stages.rank",
    "edgenetllm.stages.ranks",
)
LOGS_STAGES = ("edgenetllm.stages.logs",)  # of experience=recorded alone
PRUNE = ("edgenetllm.pruning.callback", "edgenetllm.pruning.recovery.recover", "edgenetllm.edge.bundle_writer")
PRUNE_STAGES = ("edgenetllm.stages.sparsify", "edgenetllm.stages.calibration_text")
SPECIALISE = ("edgenetllm.specialisation.module", "edgenetllm.edge.bundle_writer")
SPECIALISE_STAGES = (
    "edgenetllm.specialisation.fit",
    "edgenetllm.specialisation.activations",
    "edgenetllm.specialisation.parameters",
    "edgenetllm.specialisation.start",
)
REPLAY = ("edgenetllm.edge.replay", "edgenetllm.edge.engine")
DATA_GROUPS = ("task.", "data.")  # groups whose options determine the hash of the test data


def adaptation_identity(config: Config, computed_in_bf16: bool) -> dict[str, Any]:
    """Everything that determines an adaptation, flat: options by their dotted keys, as typed, and facts behind them."""
    searches = [of_task.experience.expert for of_task in config.tasks.values()]
    searches = [type(search) for search in searches if search is not None]
    tasks = [one for task in config.task_objects.values() for one in classes_of(task)]
    roots: list[type | str] = [*tasks, type(config.model), type(config.adapter), *searches, *added_code(config), *FIT]
    logs = logs_hashes(config)
    return {
        **options_for("adaptation", config.settings, Config),
        "trainer.threads": config.compute.rank_threads,
        "trainer.ranks": config.compute.ranks,
        "trainer.bf16": computed_in_bf16,
        "backbone": config.model.fingerprint(),
        "data.learnt": data_hash(config.task_objects, LEARNT_FROM),
        "code": code_identity(*roots, alone=FIT_STAGES + LOGS_STAGES * bool(logs)),
        **logs,
        **_versions(),
    }


class AdaptationKey(NamedTuple):
    """The hash under which an adaptation is kept, and its identity without the training seed."""

    digest: str
    identity: dict[str, Any]


def adaptation_key(config: Config, computed_in_bf16: bool, follows_seed: Collection[str] = ()) -> AdaptationKey:
    """The key of the adaptation that a configuration stands for; options that `follows_seed` count as the seed."""
    identity = adaptation_identity(config, computed_in_bf16)
    return AdaptationKey(_digest(identity), _without_seed(identity, follows_seed))


def added_code(config: Config) -> list[str]:
    """Modules of added callbacks, Trainer, optimizer and scheduler; libraries are known by their versions."""
    trainer = {"_target_": config.trainer.target, **config.trainer.added}
    module = {"_target_": config.module.target, **config.module.added}
    fitting = {name: config.callbacks.nodes.get(name) for name in ("best", "last", "early_stopping")}
    nodes = [fitting, config.callbacks.added, trainer, module, config.module.optimizer, config.module.scheduler]
    modules = [locate(target).__module__ for target in targets_in(nodes)]
    return [name for name in modules if name.partition(".")[0] not in LIBRARIES]


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
        "pruning.bf16": config.compute.bf16,
        "pruning.threads": config.compute.threads,
        "pruning.accelerator": config.trainer.accelerator,
        **({} if pruned_from is None else {"pruning.from": _digest(pruned_from)}),
        **({} if (text := embedded_text(config)) is None else {"pruning.embedded_text": values_hash(text)}),
    }
    return {**adaptation, **_without_seed(_options_of("pruning", config), follows_seed), **facts}


def specialised_identity(config: Config, bundle: dict[str, Any] | None) -> dict[str, Any] | None:
    """Everything that determines a specialised bundle but its training seed, flat; None where the parent's is not known.

    `bundle` is the identity of the bundle that it was specialised from, whose test data stand apart.
    """
    if bundle is None:
        return None
    groups = {key: config.settings[key] for key in ("task", "data", "experience", "evaluation")}
    replayed = ("control", "old_domain", "cloud")  # next to the bundle, which they do not change
    own = {key: value for key, value in config.settings["specialise"].items() if key not in replayed}
    facts = {
        **{f"specialise.{key}": value for key, value in options_for("adaptation", groups, Config).items()},
        **{f"specialise.{key}": value for key, value in own.items() if key != "name"},
        "specialise.data.learnt": data_hash(config.task_objects, LEARNT_FROM),
        "specialise.code": code_identity(*SPECIALISE, alone=SPECIALISE_STAGES),
    }
    return {**bundle, **facts}


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
        "evaluation.threads": config.compute.threads,
        **({} if (link := config.placement.fingerprint()) is None else {"evaluation.link": link}),
        **{f"evaluation.{name}": fact for name, fact in config.engine.facts().items()},
    }
    return {**pruned, **_without_seed(_options_of("evaluation", config), follows_seed), **facts}


def _without_seed(identity: dict[str, Any], follows_seed: Collection[str]) -> dict[str, Any]:
    """An identity without the training seed, and without the options that are set to it by interpolation (`${seed}`)."""
    return {key: value for key, value in identity.items() if key != "seed" and key not in follows_seed}


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
            "task": config.data_options,
            "teacher": identity_of(config.task.teacher()),
            "seed": config.pool_seed,
            "data": config.task.data_hash(LEARNT_FROM),
            "code": code_identity(*classes),
            "versions": {name: metadata.version(name) for name in ("torch", "numpy", "numba", "cmaes")},
        }
    )


class Player(NamedTuple):
    """The facts that identify a policy (none: a bound, which is no policy), and the classes behind it."""

    facts: dict[str, Any]
    code: Sequence[type] = ()


def replay_hashes(config: TaskConfig, split: str, players: Mapping[str, Player]) -> dict[str, str]:
    """The hash of each policy on the episodes of a split, by the policy's name."""
    settings = {group: config.settings[group] for group in ("task", "data")}
    shared = {
        "settings": options_for("evaluation", settings, Config),
        "split": split,
        "data": config.task.data_hash(),
        "versions": {name: metadata.version(name) for name in ("torch", "numpy", "numba")},
    }
    tasks = classes_of(config.task)
    code = {name: code_identity(*tasks, *player.code, "edgenetllm.edge.replay") for name, player in players.items()}
    return {name: _digest({**shared, "policy": players[name].facts, "code": code[name]}) for name in players}


def _versions() -> dict[str, str]:
    return {f"library.{name}": metadata.version(name) for name in LIBRARIES}


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:24]
