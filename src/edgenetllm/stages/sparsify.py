"""One-shot pruning and recovery, as every stage does them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from edgenetllm.config import Config
from edgenetllm.errors import UserError
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.models.decoder import block_zeros
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.pruning.callback import OneShotPruning
from edgenetllm.pruning.method import option_values
from edgenetllm.pruning.oneshot import LayerReport
from edgenetllm.pruning.options import Pruning
from edgenetllm.pruning.text import default_text, text_windows


def calibration_text(config: Config) -> Tensor | None:
    """(windows, tokens, width) of embedded text where `pruning.calibration=text`. Raises UserError for no usable text."""
    embedded = embedded_text(config)
    if embedded is None:
        return None
    return text_windows(embedded, config.pruning.windows, config.pruning.text_length, config.seed)


def embedded_text(config: Config) -> Tensor | None:
    """(tokens, width) of the whole text where `pruning.calibration=text`. Raises UserError for an unreadable text."""
    pruning = config.pruning
    if pruning.calibration != "text":
        return None
    try:
        text = default_text() if pruning.text is None else pruning.text.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"pruning.text={pruning.text}: not a readable text file ({error})") from None
    return config.model.embed_text(text)


def sparsify(
    config: Config, policy: PolicyNetwork, datamodule: PoolDataModule
) -> tuple[PolicyNetwork, list[LayerReport]]:
    """Prune `policy` in place as configured, and print the share of all block weights that is zero."""
    pruner = OneShotPruning(
        pruning=config.pruning,
        sparsity=config.sparsity,
        seed=config.seed,
        progress=config.callbacks.progress_bar,
        text=calibration_text(config),
    )
    batches = datamodule.calibration_batches(config.pruning.windows)
    return policy, pruner.apply(policy, batches, device=config.trainer.device)


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
