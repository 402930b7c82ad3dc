"""The policy that `experience.improvement` makes: from the store, or improved first and then kept there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file

from edgenetllm.config import Config, TaskConfig
from edgenetllm.errors import UserError
from edgenetllm.experience.improver import Improved, Improver
from edgenetllm.files import atomic_folder, sha256_of, write_json
from edgenetllm.report.summary import CURVE
from edgenetllm.stages.identity import improvement_hash
from edgenetllm.stages.store import alone, is_stored, seal
from edgenetllm.tracking.loggers import Loggers

EXPERT_FOLDER = "improved"  # lies next to the checkpoints of an adaptation


def improvement_store(config: TaskConfig) -> Path:
    """The folder in which the improved policy of this configuration is kept, whether it is there or not."""
    return config.paths.cache_dir / "improved" / f"{config.task.name}-{improvement_hash(config)}"


def improved_policy(config: TaskConfig, loggers: Loggers | None) -> Improved | None:
    """None where the configuration improves nothing. The curve is logged as `experience/...`."""
    improver = config.experience.improvement
    if improver is None:
        return None
    store = improvement_store(config)
    with alone(store, "improvement"):
        if not is_stored(store):
            unfinished = store.with_name(f"{store.name}.unfinished")
            policy, curve = improver.improve(config.task, config.pool_seed, unfinished, config.callbacks.progress_bar)
            with atomic_folder(store) as folder:
                save_file(
                    {name: value.contiguous() for name, value in policy.state_dict().items()},
                    folder / "policy.safetensors",
                )
                write_json(folder / "curve.json", curve)
                seal(folder)
            for file in store.parent.glob(f"{unfinished.name}*"):  # not before the result is safe
                file.unlink()
    curve = json.loads((store / "curve.json").read_text())
    if loggers is not None:
        for row in curve:
            loggers.log_metrics({f"{CURVE}{name}": value for name, value in row.items()})
    first, last = curve[0]["validation"], curve[-1]["validation"]
    print(f"improved policy: validation {first:.3f} at first, {last:.3f} in the end ({store})", flush=True)
    return read_improved(improver, store)


def keep_improved(config: Config, folder: Path) -> dict[str, str]:
    """Copy the improved policy of each task into the folder of an adaptation that learnt from it; task -> its SHA-256."""
    hashes = {}
    for name, of_task in config.tasks.items():
        if of_task.experience.improvement is not None:
            (folder / EXPERT_FOLDER).mkdir(exist_ok=True)
            target = folder / EXPERT_FOLDER / f"{name}.safetensors"
            shutil.copy(improvement_store(of_task) / "policy.safetensors", target)
            hashes[name] = sha256_of(target)
    return hashes


def improved_of(config: TaskConfig, folder: Path, hashes: Mapping[str, str]) -> dict[str, Improved]:
    """One more baseline for this task's tables: the improved policy that the adaptation in `folder` learnt from, if any.

    Raises UserError where it is not the one of the `hashes` that were kept.
    """
    path = folder / EXPERT_FOLDER / f"{config.task.name}.safetensors"
    improver = config.experience.improvement
    if improver is None or not path.is_file():
        return {}
    if config.task.name in hashes and sha256_of(path) != hashes[config.task.name]:
        raise UserError(f"{path} is damaged or was altered (its hash differs)")
    policy = improver.load(load_file(path))
    return {policy.name: policy}


def read_improved(improver: Improver, store: Path) -> Improved:
    """What `improved_policy` kept."""
    return improver.load(load_file(store / "policy.safetensors"))
