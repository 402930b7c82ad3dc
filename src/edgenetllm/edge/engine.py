"""Engine `torch`: a bundle becomes a policy that plays, its zeros stored as zeros in float32 matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from edgenetllm.edge.bundle import read_bundle, write_bundle
from edgenetllm.edge.encoding import Values
from edgenetllm.errors import UserError
from edgenetllm.models.decoder import build_decoder
from edgenetllm.models.policy import DecisionPolicy, build_policy
from edgenetllm.tasks.task import Task

if TYPE_CHECKING:
    from edgenetllm.models.adapters import Lora


def export_policy(
    policy: DecisionPolicy,
    task: Task,
    folder: Path,
    *,
    matrices: Sequence[str],
    adapter: Lora | None,
    values: Values,
    target_return: float,
    parent: dict[str, Any],
) -> dict[str, Any]:
    """Write a pruned policy as a bundle; returns its sizes. `matrices`, layers of the policy, are the sparse part.

    An `adapter` that was not merged travels too, dense, and its bytes count.
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


def load_policy(folder: Path, task: Task) -> tuple[DecisionPolicy, float]:
    """The policy of a bundle and its return-to-go. Raises UserError when the bundle is damaged or of another task."""
    bundle = read_bundle(folder)
    manifest = bundle.manifest
    if manifest.task != task.name:
        raise UserError(f"{folder} was made for task {manifest.task}, not {task.name}")
    target_return, rms = (manifest.extra.get(name) for name in ("target_return", "embedding_rms"))
    if not isinstance(target_return, float) or not isinstance(rms, float):
        raise UserError(f"{folder}: its manifest lacks target_return and embedding_rms under extra")
    decoder = build_decoder(dict(manifest.model))
    if manifest.extra.get("adapter") is not None:
        from edgenetllm.models.adapters import Lora  # needs peft, which no other bundle does

        try:
            Lora(**manifest.extra["adapter"]).attach(decoder, seed=0)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise UserError(f"{folder}: its manifest describes no adapter ({error})") from None
    policy = build_policy(decoder, task, rms)
    state: dict[str, Tensor] = policy.state_dict()
    missing = sorted(set(state) ^ set(bundle.tensors))
    wrong = [name for name in state if name in bundle.tensors and state[name].shape != bundle.tensors[name].shape]
    if missing or wrong:
        raise UserError(f"{folder} does not fit task {task.name} as configured: {(missing + wrong)[:3]}")
    policy.load_state_dict(bundle.tensors)
    return policy.eval(), target_return
