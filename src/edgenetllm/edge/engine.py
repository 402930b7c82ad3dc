"""A bundle as a policy of torch that plays, its matrices in float32 with their zeros."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edgenetllm.earlier import by_task, current_names
from edgenetllm.edge.bundle import Bundle, read_bundle
from edgenetllm.edge.described import check_described
from edgenetllm.edge.manifest import Manifest
from edgenetllm.errors import UserError
from edgenetllm.models.decoder import build_decoder
from edgenetllm.models.policy import PolicyNetwork, build_policy
from edgenetllm.tasks.task import Task

MOST_BUFFERS = 64 << 20  # bytes, besides as much as the tensors have


def load_policy(folder: Path, task: Task) -> tuple[PolicyNetwork, float]:
    """The policy of this task in a bundle, whatever other tasks it plays, and its return-to-go.

    Raises UserError when the bundle is damaged or of other tasks.
    """
    bundle = read_bundle(folder)
    names = bundle.manifest.task.split("+")
    if task.name not in names:
        raise UserError(f"{folder} was made for task {bundle.manifest.task}, not {task.name}")
    targets = by_task(bundle.manifest.extra.get("target_return"), names)
    target_return = targets.get(task.name) if isinstance(targets, Mapping) else None
    if not isinstance(target_return, float) or not math.isfinite(target_return):
        raise UserError(f"{folder}: its manifest has no finite target_return of task {task.name} under extra")
    tensors = current_names(_state(bundle), names)
    own = {name: value for name, value in tensors.items() if name.startswith(("decoder.", f"tasks.{task.name}."))}
    others = tuple(f"tasks.{name}." for name in names if name != task.name)
    unknown = sorted(name for name in tensors.keys() - own.keys() if not name.startswith(others))
    if unknown:
        raise UserError(f"{folder} does not fit task {task.name} as configured: {unknown[:3]}")
    return _build(folder, bundle.manifest, {task.name: task}, own), target_return


def load_whole_policy(folder: Path, tasks: Mapping[str, Task]) -> PolicyNetwork:
    """The policy of a bundle as it was exported. Raises UserError when it is damaged or not of exactly these tasks."""
    bundle = read_bundle(folder)
    if bundle.manifest.task != "+".join(tasks):
        raise UserError(f"{folder} was made for task {bundle.manifest.task}, not {'+'.join(tasks)}")
    return _build(folder, bundle.manifest, tasks, current_names(_state(bundle), tasks))


def _state(bundle: Bundle) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(bundle.array(name))) for name in bundle.tensors}


def _build(folder: Path, manifest: Manifest, tasks: Mapping[str, Task], tensors: dict[str, Tensor]) -> PolicyNetwork:
    """Raises UserError when the tensors are not those of a policy of these tasks."""
    rms = _embedding_rms(folder, manifest)
    with torch.device("meta"):  # shapes alone: what a manifest asks for takes no memory before it is compared
        described = _described(folder, manifest, tasks, rms)
        state: dict[str, Tensor] = described.state_dict()
    missing = sorted(set(state) ^ set(tensors))
    wrong = [name for name in state if name in tensors and state[name].shape != tensors[name].shape]
    if missing or wrong:
        raise UserError(f"{folder} does not fit task {'+'.join(tasks)} as configured: {(missing + wrong)[:3]}")
    _check_buffers(folder, described)
    policy = _described(folder, manifest, tasks, rms)
    policy.load_state_dict(tensors)
    return policy.eval()


def load_backbone(folder: Path) -> tuple[nn.Module, float]:
    """The backbone of a bundle, whatever tasks it plays, and the root mean square of the tokens that it expects.

    Raises UserError when the bundle is damaged.
    """
    bundle = read_bundle(folder)
    rms, prefix = _embedding_rms(folder, bundle.manifest), "decoder."
    tensors = {name: value for name, value in _state(bundle).items() if name.startswith(prefix)}
    with torch.device("meta"):
        described = _decoder(folder, bundle.manifest)
        expected = described.state_dict()
    if {prefix + name: value.shape for name, value in expected.items()} != {n: v.shape for n, v in tensors.items()}:
        raise UserError(f"{folder}: its tensors are not those of the model that its manifest describes")
    _check_buffers(folder, described)
    decoder = _decoder(folder, bundle.manifest)
    decoder.load_state_dict({name.removeprefix(prefix): value for name, value in tensors.items()})
    return decoder.eval(), rms


def _check_buffers(folder: Path, described: nn.Module) -> None:
    """Raises UserError where tables that are computed, such as masks, would take far more memory than the tensors."""
    stored = sum(value.nbytes for value in described.state_dict().values())
    computed = sum(value.nbytes for _, value in described.named_buffers())
    if computed > MOST_BUFFERS + stored:
        raise UserError(f"{folder}: its manifest's model computes tables of {computed / 1e9:.3g} GB")


def _embedding_rms(folder: Path, manifest: Manifest) -> float:
    rms = manifest.extra.get("embedding_rms")
    if not isinstance(rms, float) or not math.isfinite(rms):
        raise UserError(f"{folder}: its manifest has no finite embedding_rms under extra")
    return rms


def _described(folder: Path, manifest: Manifest, tasks: Mapping[str, Task], rms: float) -> PolicyNetwork:
    """The manifest's policy, its weights random. Raises UserError when that cannot be built."""
    return build_policy(_decoder(folder, manifest), tasks, rms)


def _decoder(folder: Path, manifest: Manifest) -> nn.Module:
    """The manifest's backbone, its weights random. Raises UserError when that cannot be built."""
    try:
        shapes = {name: tuple(entry.shape) for name, entry in manifest.tensors.items()}
        decoder = build_decoder(check_described(manifest.model, shapes, str(folder)))
    except UserError:
        raise
    except Exception as error:  # transformers raises anything for a configuration that makes no sense
        raise UserError(f"{folder}: its manifest describes no model ({type(error).__name__}: {error})") from None
    if manifest.extra.get("adapter") is not None:
        from edgenetllm.models.adapters import Lora  # needs peft, which no other bundle does

        try:
            Lora(**manifest.extra["adapter"]).attach(decoder, seed=0)  # type: ignore[arg-type]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise UserError(f"{folder}: its manifest describes no adapter ({type(error).__name__}: {error})") from None
    return decoder
