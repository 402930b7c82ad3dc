"""The artifacts that a run used and made, for W&B's lineage graph: pool -> adaptation -> pruned -> bundle.

Nothing is said to other loggers, and nothing is read or hashed for them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from edgenetllm.config import Config, TaskConfig
from edgenetllm.edge.bundle import MANIFEST
from edgenetllm.errors import UserError
from edgenetllm.experience.pool import Pool
from edgenetllm.models.stored import trained_hash
from edgenetllm.plain_files import read_json
from edgenetllm.report.results import Results
from edgenetllm.report.summary import summaries
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import FACTS_FILE, Adaptation, trained_checkpoint
from edgenetllm.stages.pool import Pools
from edgenetllm.tracking.loggers import Loggers
from edgenetllm.tracking.wandb_artifacts import Described, artifact_name, log_input, log_output


def used_pool(config: Config, loggers: Loggers, pools: Pools) -> None:
    for wandb_run in loggers.wandb_runs:
        for name, of_task in config.tasks.items():
            described = describe_pool(of_task, pools[name])
            log_input(wandb_run, described, "pool" in config.logger.upload)


def used_or_made_adaptation(config: Config, run: Run, loggers: Loggers, adaptation: Adaptation, pools: Pools) -> None:
    """Log the adaptation as made, if its checkpoint lies in the folder of this run; else as used."""
    if not loggers.wandb_runs:
        return
    own = adaptation.source.resolve() == run.folder.resolve()
    made_from = tuple(_pool_name(of_task, pools[name]) for name, of_task in config.tasks.items())
    described = describe_adaptation(config, adaptation, made_from if own else ())
    log = log_output if own else log_input
    for wandb_run in loggers.wandb_runs:
        log(wandb_run, described, "adaptation" in config.logger.upload)


def made_bundle(
    config: Config, loggers: Loggers, adaptation: Adaptation, reports: Mapping[str, Results], bundle: Path
) -> None:
    """Log the report of the pruning and the bundle as made; `reports` are the results by task."""
    if not loggers.wandb_runs:
        return
    parent = artifact_name("adaptation", config.task_name, _adaptation_digest(adaptation))
    results = next(iter(reports.values()))  # what they say of pruning and bundle is the same
    pruned = describe_pruned(config, results, bundle, (parent,))
    every = {key: value for figures in summaries(reports).values() for key, value in figures.items()}
    figures = {key: value for key, value in every.items() if _is_ours(key, reports)}
    metadata = {**_identity(config, results), **figures, "size": results.bundle}
    described = describe_bundle(config, bundle, metadata, (pruned.name,))
    for wandb_run in loggers.wandb_runs:
        log_output(wandb_run, pruned, False)
        log_output(wandb_run, described, "bundle" in config.logger.upload)


def made_specialised_bundle(
    config: Config, loggers: Loggers, bundle: Path, parent: Path, reports: Mapping[str, Results]
) -> None:
    """Log the bundle `parent` as used, and the one that was specialised from it as made."""
    if not loggers.wandb_runs:
        return
    used_bundle(config, loggers, parent)
    results = next(iter(reports.values()))
    every = {key: value for figures in summaries(reports).values() for key, value in figures.items()}
    figures = {key: value for key, value in every.items() if _is_ours(key, reports)}
    metadata = {**_identity(config, results), **figures, "size": results.bundle, "cost": results.specialisation}
    from_bundle = artifact_name("bundle", config.task_name, _bundle_digest(parent))
    described = describe_bundle(config, bundle, metadata, (from_bundle,))
    for wandb_run in loggers.wandb_runs:
        log_output(wandb_run, described, "bundle" in config.logger.upload)


def used_bundle(config: Config, loggers: Loggers, bundle: Path) -> None:
    for wandb_run in loggers.wandb_runs:
        log_input(wandb_run, describe_bundle(config, bundle, {}, ()), "bundle" in config.logger.upload)


def describe_pool(config: TaskConfig, pool: Pool) -> Described:
    files: dict[str, Path | bytes] = {}
    if "pool" in config.logger.upload:
        files["columns.npz"] = _pool_folder(config, pool) / "columns.npz"
    return Described("pool", config.task.name, pool.info["sha256"], pool.info, {"pool.json": _json(pool.info)}, files)


def describe_adaptation(config: Config, adaptation: Adaptation, made_from: tuple[str, ...]) -> Described:
    """The same bytes wherever the checkpoint lies: with the optimizer's state in the run that learnt it, without in the
    store. What is uploaded is what the store has."""
    facts = {**adaptation.facts, "adapted_in": "."}
    return Described(
        "adaptation",
        config.task_name,
        _adaptation_digest(adaptation),
        {"model": config.model.label, "seed": config.seed, **facts},
        {FACTS_FILE: _json(facts)},
        {"checkpoints/best.ckpt": _trained(adaptation)} if "adaptation" in config.logger.upload else {},
        made_from,
    )


def describe_pruned(config: Config, results: Results, bundle: Path, made_from: tuple[str, ...]) -> Described:
    """The record of which layer lost how much to which method; the weights themselves are in the bundle."""
    pruning = results.pruning or {}
    layers: Any = pruning.get("layers", {})
    counts = {key: sum(layer[key] for layer in layers.values()) for key in ("zeros", "weights")}
    report = {"pruning": pruning, "recovery": results.recovery}
    metadata = {**_identity(config, results), **counts, "layers": len(layers), "recovery": results.recovery}
    return Described(
        "pruned", config.task_name, _bundle_digest(bundle), metadata, {"pruned.json": _json(report)}, {}, made_from
    )


def describe_bundle(config: Config, bundle: Path, metadata: dict[str, Any], made_from: tuple[str, ...]) -> Described:
    manifest = bundle / MANIFEST
    files: dict[str, Path | bytes] = {path.name: path for path in sorted(bundle.iterdir()) if path != manifest}
    documents = {MANIFEST: manifest.read_bytes()}
    return Described("bundle", config.task_name, _bundle_digest(bundle), metadata, documents, files, made_from)


def _is_ours(key: str, reports: Mapping[str, Results]) -> bool:
    """True where a figure is of the sparse model, and not of another policy."""
    names = key.split("/")
    return len(names) == 2 or (len(names) == 3 and names[1] in reports)


def _identity(config: Config, results: Results) -> dict[str, Any]:
    """`results` of one of the tasks; where there are several, its data set is that of one."""
    return {
        "model": results.model,
        "data": results.data,
        "seed": results.seed,
        "sparsity": results.sparsity,
        "pruning": config.pruning.label,
    }


def _pool_name(config: TaskConfig, pool: Pool) -> str:
    return artifact_name("pool", config.task.name, pool.info["sha256"])


def _pool_folder(config: TaskConfig, pool: Pool) -> Path:
    """The folder of a pool in the cache, found by its content: a pool does not know it itself."""
    for path in (config.paths.cache_dir / "pools").glob("*/pool.json"):
        with suppress(UserError):  # a damaged one is not this pool, which has just been read
            if read_json(path) == pool.info:
                return path.parent
    raise UserError(f"{config.paths.cache_dir}/pools: the pool of this run is gone")


def _adaptation_digest(adaptation: Adaptation) -> str:
    return trained_hash(adaptation.source / "checkpoints" / "best.ckpt")


def _bundle_digest(bundle: Path) -> str:
    return str(json.loads((bundle / MANIFEST).read_bytes())["digest"])


def _trained(adaptation: Adaptation) -> bytes:
    """A checkpoint as the store keeps it, the same bytes wherever it lies."""
    checkpoint = trained_checkpoint(adaptation.source)
    checkpoint["state_dict"] = {
        name: checkpoint["state_dict"][name].clone() for name in sorted(checkpoint["state_dict"])
    }
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def _json(facts: Any) -> bytes:
    return (json.dumps(facts, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
