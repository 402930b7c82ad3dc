"""The pools that a run learns from, of each of its tasks, and what hands them to Lightning and to recoveries."""

from __future__ import annotations

from edgenetllm.config import Config, TaskConfig
from edgenetllm.experience.collect import collect
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.experience.pool import Pool, subsample
from edgenetllm.pruning.recovery.recover import RecoveryContext
from edgenetllm.stages.expert import expert_policy
from edgenetllm.stages.logs import recorded_pool
from edgenetllm.tracking.loggers import Loggers

Pools = dict[str, Pool]  # by task


def collect_pools(config: Config, loggers: Loggers | None = None) -> Pools:
    """The pool of each task, or the fraction of it that is learnt from; collected where the cache does not have it.

    The `loggers` get the curve of the search for its expert.
    """
    return {name: _collect(of_task, loggers) for name, of_task in config.tasks.items()}


def _collect(config: TaskConfig, loggers: Loggers | None) -> Pool:
    if config.experience.folder is not None:
        return subsample(recorded_pool(config), config.experience.fraction, config.pool_seed)
    folder = config.paths.cache_dir / "pools"
    expert = expert_policy(config, loggers)
    pool = collect(
        config.task,
        config.experience.shares,
        config.pool_seed,
        folder,
        config.experience.workers,
        expert,
        config.data_options,
        config.experience.backend,
    )
    return subsample(pool, config.experience.fraction, config.pool_seed)


def make_datamodule(config: Config, pools: Pools) -> PoolDataModule:
    """The batches of a fit and of the calibration."""
    return PoolDataModule(
        config.task_objects,
        pools,
        batch_size=config.trainer.batch_size,
        batches_per_epoch=config.budget.batches_per_epoch,
        seed=config.seed,
        accumulate=config.trainer.accumulate,
        val_fraction=limit if isinstance(limit := config.trainer.limit_val_batches, float) else 1.0,
        task_weights=config.task_weights,
    )


def recovery_context(config: Config, pools: Pools, loggers: Loggers) -> RecoveryContext:
    """The objects and values that a recovery works with."""
    return RecoveryContext(
        config.task_objects,
        pools,
        seed=config.seed,
        task_weights=config.task_weights,
        accelerator=config.trainer.accelerator,
        bf16=config.compute.bf16,
        progress=config.callbacks.progress,
        loggers=loggers,
    )
