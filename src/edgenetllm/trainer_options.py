"""Arguments of Lightning's Trainer that can be typed as `+trainer.NAME=...`, and those that this project sets itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from edgenetllm.nodes import HYDRA_KEYS, argument_problems, describe, target_problems, unknown_key
from edgenetllm.signatures import Arguments

TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
# Arguments of the Trainer that would break a run, or that have another name here.
REFUSED = {
    "callbacks": "add one with +callbacks.NAME._target_=...",
    "logger": "choose with logger=..., or add one with +logger.NAME._target_=...",
    "default_root_dir": "it is the folder of the run, under paths.log_dir",
    "max_epochs": "type budget.epochs=...",
    "accumulate_grad_batches": "type trainer.accumulate=...",
    "gradient_clip_val": "type trainer.gradient_clip=...",
    "enable_progress_bar": "type callbacks.progress_bar=...",
    "enable_checkpointing": "the best checkpoint is what is pruned",
    "barebones": "it leaves out the checkpoints, and the best one is what is pruned",
    "overfit_batches": "it would replace the seeded batches: type trainer.limit_train_batches=...",
    "use_distributed_sampler": "batches are shared out to the devices already",
    "plugins": "those of the checkpoints and of the ranks are set here",
    "limit_test_batches": "test episodes are replayed from the bundle, without this Trainer",
    "limit_predict_batches": "this Trainer predicts nothing",
}


def trainer_problems(trainer: Mapping[str, Any], own: Collection[str]) -> list[str]:
    """A sentence for every key of the section that is neither one of our `own` nor an argument of the Trainer's class."""
    target = trainer.get("_target_", "lightning.Trainer")
    wrong = target_problems("trainer", {"_target_": target}, TRAINER)
    if wrong:
        return wrong
    described = describe(target)
    assert described is not None
    extra = {key: value for key, value in trainer.items() if key not in own and key not in HYDRA_KEYS}
    problems = [
        f"trainer.{key}={extra[key]!r} is set by this project: {REFUSED[key]}" for key in extra if key in REFUSED
    ]
    left = {key: value for key, value in extra.items() if key not in REFUSED}
    known = described.all_names
    unknown = [key for key in left if key not in known]
    names = [f"trainer.{name}" for name in [*own, *(set(known) - set(REFUSED))]]
    problems += [f"{unknown_key(f'trainer.{key}', names)} (arguments of {target} can be added, too)" for key in unknown]
    # Nodes inside of arguments, and values.
    taken = {key: value for key, value in left.items() if key in known}
    types = {key: kind for one in reversed(described.bases.values()) for key, kind in one.types.items()}
    return problems + argument_problems("trainer", Arguments([], [], True, types), {"_target_": target, **taken})


def limit_problems(trainer: Any, budget: Any) -> list[str]:
    """Sentences on limits under which nothing would be learnt, or no checkpoint chosen; both are validated sections."""
    batches, epochs, extra = budget.batches_per_epoch, budget.epochs, trainer.model_extra or {}
    problems = []
    if whole_batches(trainer.limit_train_batches, batches) < 1:
        problems.append(
            f"trainer.limit_train_batches={trainer.limit_train_batches} of budget.batches_per_epoch={batches} leaves none"
        )
    if trainer.warmup_steps >= epochs * batches:
        problems.append("trainer.warmup_steps must be smaller than budget.epochs x budget.batches_per_epoch")
    every = extra.get("check_val_every_n_epoch")
    if isinstance(every, int) and every > epochs:
        problems.append(
            f"trainer.check_val_every_n_epoch={every}: with budget.epochs={epochs} nothing is ever validated, and "
            "the checkpoint is chosen on validation"
        )
    steps = extra.get("max_steps")
    if isinstance(steps, int) and 0 <= steps < batches and "val_check_interval" not in extra:
        problems.append(
            f"trainer.max_steps={steps} ends before the first validation, on which the checkpoint is chosen: type "
            f"budget.batches_per_epoch={max(1, steps)}, or fewer"
        )
    return problems


def whole_batches(limit: int | float, batches: int) -> int:
    """The number of the `batches` of an epoch that a limit leaves: a number of them, or (float) a fraction."""
    return int(limit * batches) if isinstance(limit, float) else min(limit, batches)


def fitting_limits(trainer: Any, budget: Any) -> dict[str, Any]:
    """The Trainer's arguments for how much is learnt. `fast_dev_run` is n batches of one epoch and of validation, as
    Lightning's, but with checkpoint and logger: the stages that follow start from them."""
    few = int(trainer.fast_dev_run)
    train = whole_batches(few or trainer.limit_train_batches, budget.batches_per_epoch)
    val = few or trainer.limit_val_batches
    return {
        "max_epochs": 1 if few else budget.epochs,
        "limit_train_batches": None if train == budget.batches_per_epoch else train * trainer.accumulate,
        "limit_val_batches": None
        if isinstance(val, float)
        else val,  # a fraction is one of the episodes: PoolDataModule
    }
