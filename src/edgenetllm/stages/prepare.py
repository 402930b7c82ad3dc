"""The announcement before anything expensive starts: the data, the size of the work, and with `dry_run` an estimate."""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from edgenetllm.config import Config, TaskConfig
from edgenetllm.edge.sizes import expected_bits
from edgenetllm.experience.task_weights import split_by_task
from edgenetllm.models.adapters import Lora
from edgenetllm.models.decoder import blocks, build_decoder, decoder_config, prunable_layers, weight_out_in
from edgenetllm.models.policy import build_policy
from edgenetllm.parallel import require_backend
from edgenetllm.printable import say
from edgenetllm.pruning.method import option_values
from edgenetllm.pruning.oneshot import check_all_reached, check_structure
from edgenetllm.stages.calibration_text import calibration_text
from edgenetllm.stages.export import check_export
from edgenetllm.stages.finite_budget import with_numbers
from edgenetllm.stages.guarded import check_edge
from edgenetllm.stages.placed import check_placement
from edgenetllm.stages.suitability import check_architecture


def announce(config: Config) -> None:
    """Print data and splits, the layers that are kept and the budget, and set the number of torch threads.

    Raises UserError for a device that this machine does not have, unless it is a dry run.
    """
    if not config.dry_run:
        _ = config.trainer.device
    config = with_numbers(config)
    torch.set_num_threads(config.compute.threads)
    for task in config.task_objects.values():
        for line in task.describe_data():
            say(line)
    seen = config.experience.fraction
    pool = "pool" if seen == 1 else f"pool (adaptation sees {seen:.3g} of them)"
    depth = "all" if config.model.layers is None else f"the first {config.model.layers}"
    budget, sizes = config.budget, batch_sizes(config)
    pools = [_pool_text(of_task, pool) for of_task in config.tasks.values()]
    sequences = [
        f"{sizes[name]} " + ("episodes" if one.segment is None else f"sequences of {one.segment} decisions")
        for name, one in config.task_objects.items()
    ]
    if len(config.tasks) > 1:
        pools = [f"{text} of {name}" for text, name in zip(pools, config.tasks, strict=True)]
        sequences = [f"{text} of {name}" for text, name in zip(sequences, config.tasks, strict=True)]
    say(
        f"model: {config.model.label}, {depth} decoder blocks; budget {budget.name}: {' and '.join(pools)}, "
        f"{budget.epochs} epochs of {budget.batches_per_epoch} batches of {' and '.join(sequences)}",
    )


def _pool_text(config: TaskConfig, pool: str) -> str:
    folder = config.experience.folder
    return f"{config.budget.episodes} episodes in the {pool}" if folder is None else f"a {pool} of the logs in {folder}"


def batch_sizes(config: Config) -> dict[str, int]:
    """Sequences of each task in an optimisation step."""
    return split_by_task(config.trainer.batch_size, config.task_weights, "trainer.batch_size")


def check_pruning(config: Config) -> None:
    """Raises UserError when the model, or the adapter or pruning on it, is not possible: before a pool is collected.

    So for `experience.backend`, where that cannot collect one; a dry run collects none.
    """
    if not config.dry_run:
        require_backend(config.experience.workers, config.experience.backend)
    architecture = config.model.architecture()  # outside: the first time, this converts real weights
    config.model.check_files()
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        decoder = build_decoder(architecture, config.model.layers)
        blocks(decoder)  # says so of an architecture whose blocks cannot be found
        policy = build_policy(decoder, config.task_objects, embedding_rms=1.0)
    check_architecture(
        architecture, config.model.layers, [policy.networks(name).band is not None for name in config.tasks]
    )
    check_engine(config)
    check_export(config)
    check_all_reached(decoder, config.sparsity)
    layers = prunable_layers(decoder)
    check_structure(
        {name: tuple(weight_out_in(layer).shape) for name, layer in layers.items()}, config.pruning, config.sparsity
    )
    option_values(config.pruning.method)
    option_values(config.recovery)
    with torch.device("meta"):
        config.adapter.attach(decoder, config.seed)
    calibration_text(config)


def check_engine(config: Config) -> None:
    """Raises UserError for a model that the engine does not run, and for what cannot be played of `edge` and `placement`."""
    decoder = decoder_config(config.model.architecture(), config.model.layers)
    apart = isinstance(config.adapter, Lora) and config.pruning.lora == "prune_base_keep_adapter"
    config.engine.check(decoder.to_dict(), config.task_objects, adapter=apart)
    check_edge(config)
    check_placement(config)


@dataclass(frozen=True)
class Estimate:
    """The size of one run, before anything is loaded; bytes where nothing else is said."""

    parameters: int
    prunable: int
    trainable: int
    decisions: int
    tokens: int
    tokens_per_step: float  # mean over the tasks' decisions, where there are several tasks
    memory: float
    checkpoints: int
    bundle: int
    pool: int


def estimate(config: Config) -> Estimate:
    """The size of a run, from the shapes of the model and the budget."""
    config = with_numbers(config)
    architecture = config.model.architecture()  # outside: the first time, this converts real weights
    with torch.device("meta"):
        decoder = build_decoder(architecture, config.model.layers)
        config.adapter.attach(decoder, config.seed)
        policy = build_policy(decoder, config.task_objects, embedding_rms=1.0)
    # Parameters.
    parameters = sum(p.numel() for p in policy.parameters())
    trainable = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    prunable = sum(layer.weight.numel() for layer in prunable_layers(decoder).values())
    # Decisions and tokens of all steps, and of one batch.
    sizes, steps = batch_sizes(config), config.budget.epochs * config.budget.batches_per_epoch
    decisions = batch_tokens = 0
    for name, task in config.task_objects.items():
        in_batch = sizes[name] * (task.segment or task.max_steps)
        decisions += steps * in_batch
        batch_tokens += in_batch * policy.networks(name).tokens_per_step
    width, blocks = int(decoder.config.hidden_size), int(decoder.config.num_hidden_layers)  # type: ignore[union-attr,arg-type]
    # Bytes in memory and on disk.
    value = 2 if config.compute.bf16 else 4
    weights = (parameters - trainable) * value + trainable * 16  # trained: weight, gradient, two moments in float32
    activations = batch_tokens * width * blocks * 40 * value  # about 40 values of `width` kept per token and block
    bits = expected_bits(1 - config.sparsity, config.export.values, config.export.mask)
    return Estimate(
        parameters=parameters,
        prunable=prunable,
        trainable=trainable,
        decisions=decisions,
        tokens=steps * batch_tokens,
        tokens_per_step=steps * batch_tokens / decisions,
        memory=weights + activations,
        checkpoints=2 * trainable * 12,
        bundle=round(prunable * bits / 8) + (parameters - prunable - trainable) * 4,
        pool=sum(one.budget.episodes * one.task.max_steps * 600 for one in config.tasks.values()),
    )


def preflight(config: Config) -> None:
    """Print parameters, trainable parameters, tokens, memory and disk of the run that `dry_run=true` stands for."""
    size = estimate(config)
    free = psutil.virtual_memory().available
    lines = [
        ("parameters", f"{size.parameters:,}, of them {size.prunable:,} in prunable matrices"),
        ("trainable", f"{size.trainable:,} ({100 * size.trainable / size.parameters:.1f} %)"),
        ("training", f"{size.decisions:,} decisions, {size.tokens:,} tokens ({size.tokens_per_step:.3g} a decision)"),
        ("memory", f"about {size.memory / 2**30:.1f} GiB of {free / 2**30:.1f} GiB free"),
        ("checkpoints", f"about {size.checkpoints / 2**20:.0f} MiB in two files"),
        ("bundle", f"about {size.bundle / 2**20:.0f} MiB at sparsity {config.sparsity:g}"),
        ("pool", f"about {size.pool / 2**20:.0f} MiB"),
    ]
    for name, text in lines:
        say(f"  {name:<12} {text}")
