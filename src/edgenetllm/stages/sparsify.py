"""One-shot pruning, as every stage does it, and its record for the results."""

from __future__ import annotations

from typing import Any

from edgenetllm.config import Config
from edgenetllm.models.decoder import block_zeros
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.pruning.callback import OneShotPruning
from edgenetllm.pruning.method import option_values
from edgenetllm.pruning.oneshot import LayerReport
from edgenetllm.pruning.options import Pruning
from edgenetllm.stages.calibration_text import calibration_text
from edgenetllm.stages.pool import Pools, make_datamodule
from edgenetllm.stages.trainer import build_own


def build_pruning(config: Config) -> OneShotPruning:
    """The callback `callbacks.pruning` with the options of the group `pruning`."""
    pruning: OneShotPruning = build_own(
        config,
        "pruning",
        OneShotPruning,
        pruning=config.pruning,
        sparsity=config.sparsity,
        seed=config.seed,
        progress=config.callbacks.progress,
        monitor=config.objective.monitored,
        text=calibration_text(config),
    )
    return pruning


def prune_policy(config: Config, pruning: OneShotPruning, policy: PolicyNetwork, pools: Pools) -> PolicyNetwork:
    """Prune a policy in place, without a fit."""
    batches = make_datamodule(config, pools).calibration_batches(config.pruning.windows)
    pruning.apply(policy, batches, device=config.trainer.device)
    return policy


def describe_pruning(pruning: Pruning, report: list[LayerReport], policy: PolicyNetwork) -> dict[str, Any]:
    """A record of what was done to which layer, for `results.json`, and how many of all block weights are zero."""
    weights, zeros = block_zeros(policy.decoder)
    layers = {
        row.name: {"zeros": row.zeros, "weights": row.weights, "error": row.error, "cosine": row.cosine}
        for row in report
    }
    return {
        "method": pruning.method.name,
        "label": pruning.label,
        "structure": pruning.structure,
        "allocation": pruning.allocation,
        "calibration": pruning.calibration,
        "windows": pruning.windows,
        "lora": pruning.lora,
        "spread": pruning.spread,
        "also": list(pruning.also),
        "force": pruning.force,
        "options": option_values(pruning.method),
        "block_weights": weights,
        "block_zeros": zeros,
        "layers": layers,
    }
