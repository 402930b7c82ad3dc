"""The policy that `experience.expert` makes: from the store, or made first and then kept there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from edgenetllm.config import Config, TaskConfig
from edgenetllm.errors import UserError
from edgenetllm.experience.expert import Expert, ExpertSearch
from edgenetllm.files import atomic_folder, sha256_of, write_atomic, write_json
from edgenetllm.plain_files import read_json
from edgenetllm.printable import say
from edgenetllm.report.summary import CURVE
from edgenetllm.stages.identity import expert_hash
from edgenetllm.stages.store import reserved_folder, seal
from edgenetllm.tracking.loggers import Loggers

EXPERT_FOLDER = "expert"  # lies next to the checkpoints of an adaptation
EARLIER = "improved"  # its name, and that of its hashes, in runs of earlier versions


def expert_store(config: TaskConfig) -> Path:
    """The folder for the expert of this configuration, whether it exists or not."""
    return config.paths.cache_dir / "experts" / f"{config.task.name}-{expert_hash(config)}"


def expert_policy(config: TaskConfig, loggers: Loggers | None) -> Expert | None:
    """The expert of a task, from the store or searched for first; None where the configuration has no search for one.

    The curve is logged as `experience/...`.
    """
    search = config.experience.expert
    if search is None:
        return None
    store = expert_store(config)
    with reserved_folder(store, "expert search") as is_stored:
        if not is_stored:
            unfinished = store.with_name(f"{store.name}.unfinished")
            policy, curve = search.search(config.task, config.pool_seed, unfinished, config.callbacks.progress)
            with atomic_folder(store) as folder:
                save_file(
                    {name: value.contiguous() for name, value in policy.state_dict().items()},
                    folder / "policy.safetensors",
                )
                write_json(folder / "curve.json", curve)
                seal(folder)
            for file in store.parent.glob(f"{unfinished.name}*"):  # not before the result is safe
                file.unlink()
    curve = read_json(store / "curve.json")
    if loggers is not None:
        for row in curve:
            loggers.log_metrics({f"{CURVE}{name}": value for name, value in row.items()})
    first, last = curve[0]["validation"], curve[-1]["validation"]
    say(f"expert: validation {first:.3f} at first, {last:.3f} in the end ({store})")
    return read_expert(search, store)


def keep_expert(config: Config, folder: Path) -> dict[str, str]:
    """Copy the expert policy of each task into the folder of an adaptation that learnt from it; task -> its SHA-256."""
    hashes = {}
    for name, of_task in config.tasks.items():
        if of_task.experience.expert is not None:
            target = folder / EXPERT_FOLDER / f"{name}.safetensors"
            write_atomic(target, (expert_store(of_task) / "policy.safetensors").read_bytes())
            hashes[name] = sha256_of(target)
    return hashes


def expert_of(config: TaskConfig, folder: Path, facts: Mapping[str, Any]) -> dict[str, Expert]:
    """One more policy for this task's tables: the expert that the adaptation in `folder` learnt from, if any.

    Raises UserError where it is not the one whose hash the `facts` of the adaptation hold.
    """
    hashes = facts.get("expert", facts.get(EARLIER, {}))
    place = EXPERT_FOLDER if (folder / EXPERT_FOLDER).is_dir() else EARLIER
    path = folder / place / f"{config.task.name}.safetensors"
    search = config.experience.expert
    if search is None or not path.is_file():
        return {}
    if config.task.name in hashes and sha256_of(path) != hashes[config.task.name]:
        raise UserError(f"{path} is damaged or was altered (its hash differs)")
    policy = _load(search, path)
    return {policy.name: policy}


def read_expert(search: ExpertSearch, store: Path) -> Expert:
    """The expert that `expert_policy` stored in the folder `store`."""
    return _load(search, store / "policy.safetensors")


def _load(search: ExpertSearch, path: Path) -> Expert:
    """The policy with the weights in a file. Raises UserError where the file is damaged, does not fit, or is not finite."""
    try:
        weights = load_file(path)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
            raise UserError("it holds NaN or infinity")
        return search.load(weights)
    except (OSError, SafetensorError, UserError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not the expert of {search.name}: {error!s:.200}") from None
