"""Engine `torch`: a bundle becomes a policy that plays, its zeros stored as zeros in float32 matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgenetllm.edge.bundle import read_bundle, write_bundle
from edgenetllm.edge.encoding import Values
from edgenetllm.edge.manifest import Manifest
from edgenetllm.errors import UserError
from edgenetllm.experience.joint_task import JointTask
from edgenetllm.models.decoder import build_decoder
from edgenetllm.models.joint_policy import build_any_policy, part_tensors
from edgenetllm.models.policy import DecisionPolicy, Policy
from edgenetllm.tasks.task import Task

if TYPE_CHECKING:
    from edgenetllm.models.adapters import Lora


def export_policy(
    policy: Policy,
    task: Task | JointTask,
    folder: Path,
    *,
    matrices: Sequence[str],
    adapter: Lora | None,
    values: Values,
    target_return: float | dict[str, float],
    parent: dict[str, Any],
) -> dict[str, Any]:
    """Write a pruned policy as a bundle; returns its sizes. `matrices`, layers of the policy, are the sparse part.

    An `adapter` that was not merged travels too, dense, and its bytes count. A policy of several tasks is one bundle, with
    the backbone once, and `target_return` by task.
    """
    sparse_names = {f"{name}.weight" for name in matrices}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in policy.state_dict().items()}
    manifest = {
        "task": task.name,
        "model": policy.decoder.config.to_dict(),  # type: ignore[union-attr,operator]
        "metrics": parent,
        "extra": {
            "target_return": target_return,
            "embedding_rms": policy.embedding_rms,
            "adapter": None if adapter is None else asdict(adapter),
        },
    }
    return write_bundle(
        folder,
        sparse={name: tensor for name, tensor in tensors.items() if name in sparse_names},
        dense={name: tensor for name, tensor in tensors.items() if name not in sparse_names},
        manifest=manifest,
        values=values,
        overwrite=True,  # a resumed run writes it again
    )


def policy_name(layer: str) -> str:
    """The name in the policy of a pruned layer: those of the backbone are reported by their name in the decoder."""
    return layer if layer.startswith(("encoder.", "head.", "parts.")) else f"decoder.{layer}"


def zeros_of_task(layers: Mapping[str, Mapping[str, Any]], task: str) -> dict[str, int]:
    """Zeros by layer of the policy of one task, by name there; `layers` are all that were pruned, with their `zeros`."""
    zeros = {policy_name(name).removeprefix(f"parts.{task}."): counts["zeros"] for name, counts in layers.items()}
    return {name: count for name, count in zeros.items() if not name.startswith("parts.")}


def load_policy(folder: Path, task: Task) -> tuple[DecisionPolicy, float]:
    """The policy of a bundle and its return-to-go; of a bundle of several tasks, the policy of this one.

    Raises UserError when the bundle is damaged or of other tasks.
    """
    bundle = read_bundle(folder)
    tensors, target_return = bundle.tensors, bundle.manifest.extra.get("target_return")
    if bundle.manifest.task != task.name and task.name in bundle.manifest.task.split("+"):
        tensors = part_tensors(tensors, task.name)
        target_return = target_return.get(task.name) if isinstance(target_return, dict) else None
    elif bundle.manifest.task != task.name:
        raise UserError(f"{folder} was made for task {bundle.manifest.task}, not {task.name}")
    if not isinstance(target_return, float) or not math.isfinite(target_return):
        raise UserError(f"{folder}: its manifest has no finite target_return of task {task.name} under extra")
    policy = _build(folder, bundle.manifest, task, tensors)
    assert isinstance(policy, DecisionPolicy)
    return policy, target_return


def load_whole_policy(folder: Path, task: Task | JointTask) -> Policy:
    """The policy of a bundle as it was exported. Raises UserError when it is damaged or not of exactly this task."""
    bundle = read_bundle(folder)
    if bundle.manifest.task != task.name:
        raise UserError(f"{folder} was made for task {bundle.manifest.task}, not {task.name}")
    return _build(folder, bundle.manifest, task, bundle.tensors)


def _build(folder: Path, manifest: Manifest, task: Task | JointTask, tensors: dict[str, Tensor]) -> Policy:
    """Raises UserError when the tensors are not those of this task's policy."""
    rms = manifest.extra.get("embedding_rms")
    if not isinstance(rms, float) or not math.isfinite(rms):
        raise UserError(f"{folder}: its manifest has no finite embedding_rms under extra")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UserError(f"{folder}: {name} holds NaN or infinity")
    with torch.device("meta"):  # shapes alone: what a manifest asks for takes no memory before it is compared
        state: dict[str, Tensor] = _described(folder, manifest, task, rms).state_dict()
    missing = sorted(set(state) ^ set(tensors))
    wrong = [name for name in state if name in tensors and state[name].shape != tensors[name].shape]
    if missing or wrong:
        raise UserError(f"{folder} does not fit task {task.name} as configured: {(missing + wrong)[:3]}")
    policy = _described(folder, manifest, task, rms)
    policy.load_state_dict(tensors)
    return policy.eval()


def _described(folder: Path, manifest: Manifest, task: Task | JointTask, rms: float) -> Policy:
    """The manifest's policy, its weights random. Raises UserError when that cannot be built."""
    try:
        decoder = build_decoder(dict(manifest.model))
    except UserError:
        raise
    except Exception as error:  # transformers raises anything for a configuration that makes no sense
        raise UserError(f"{folder}: its manifest describes no model ({type(error).__name__}: {error})") from None
    if manifest.extra.get("adapter") is not None:
        from edgenetllm.models.adapters import Lora  # needs peft, which no other bundle does

        try:
            Lora(**manifest.extra["adapter"]).attach(decoder, seed=0)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise UserError(f"{folder}: its manifest describes no adapter ({error})") from None
    return build_any_policy(decoder, task, rms)
