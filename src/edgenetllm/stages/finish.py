"""The end of train.py and of prune.py: recovery, bundle, evaluation, and the figure that a search optimises."""

from __future__ import annotations

from typing import Any

from torch import nn

from edgenetllm.config import Config
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.pruning.callback import OneShotPruning
from edgenetllm.pruning.recovery.recover import recover
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import Adaptation
from edgenetllm.stages.evaluation import evaluate_bundle
from edgenetllm.stages.export import BUNDLE, export
from edgenetllm.stages.pool import Pools, recovery_context
from edgenetllm.stages.sparsify import describe_pruning
from edgenetllm.stages.validation import validation_scores
from edgenetllm.tracking.loggers import Loggers


def finish(
    config: Config,
    run: Run,
    adaptation: Adaptation,
    sparse: PolicyNetwork,
    pruning: OneShotPruning,
    pools: Pools,
    loggers: Loggers,
    timings: dict[str, float],
    identity: dict[str, Any] | None,
) -> float | None:
    """Recover what was pruned, write the bundle and evaluate it. `identity` is that of the bundle, without its seed.

    Returns the sparse model's objective on validation if that is asked for: test data chooses nothing.
    """
    recovery = recover(config.recovery, sparse, adaptation.dense, recovery_context(config, pools, loggers))
    sizes = export(config, run, adaptation, sparse, pruning.report, pools)
    pruned = describe_pruning(config.pruning, pruning.report, sparse)
    bundle, timings = run.folder / BUNDLE, {**timings, "pruning": pruning.seconds}
    evaluate_bundle(config, run, adaptation, bundle, loggers, timings, pruned, recovery, sizes, identity)
    if not config.evaluation.validation:
        return None
    sessions = {name: config.engine.load(bundle, task) for name, task in config.task_objects.items()}
    for session in sessions.values():
        if isinstance(policy := getattr(session, "policy", None), nn.Module):
            policy.to(config.trainer.device)
    scores = validation_scores(config, sessions)
    loggers.log_metrics({f"val/sparse/{name}": score for name, score in scores.items()})
    return scores[config.objective.metric.name]
