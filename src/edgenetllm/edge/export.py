"""A policy in memory becomes a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from edgenetllm.earlier import current_names
from edgenetllm.edge.bundle import Array
from edgenetllm.edge.bundle_writer import write_bundle
from edgenetllm.edge.compression import Compression
from edgenetllm.edge.encoding import MaskForm, Matrix, Values
from edgenetllm.edge.networks import ENCODERS
from edgenetllm.edge.quantised import QuantisedMatrix
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.models.task_networks import TaskNetworks
from edgenetllm.tasks.common.edge import EdgeEncoder, Input

if TYPE_CHECKING:
    from edgenetllm.models.adapters import Lora


def export_policy(
    policy: PolicyNetwork,
    folder: Path,
    *,
    matrices: Sequence[str],
    adapter: Lora | None,
    target_returns: Mapping[str, float],
    parent: dict[str, Any],
    values: Values = "int8",
    mask: MaskForm | Literal["auto"] = "auto",
    group: int | None = None,
    compress: Compression = "none",
    quantised: Mapping[str, QuantisedMatrix] | None = None,
    fallbacks: Mapping[str, Mapping[str, dict[str, Any]]] = MappingProxyType({}),
    guards: Mapping[str, dict[str, Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Write a pruned policy as a bundle; returns its sizes. `matrices`, layers of the policy, are its sparse part.

    `quantised`, layer -> (out, in), are those among them that have been quantised to `values` already. An `adapter` that was
    not merged travels too, dense, and its bytes count. The bundle has the backbone once, whatever the number of tasks;
    `target_returns` is the return-to-go of each of them. `fallbacks` and `guards`, by task, are what an agent decides with
    where the model does not (`Task.fallbacks`, `edge.calibrate_guard`).
    """
    # The tensors, and everything that is needed to build the policy again.
    state = {name: to_numpy(tensor) for name, tensor in policy.state_dict().items()}
    sparse: dict[str, Matrix] = {f"{name}.weight": state.pop(f"{name}.weight") for name in matrices}
    sparse |= {f"{name}.weight": matrix for name, matrix in (quantised or {}).items()}
    manifest = {
        "task": "+".join(policy.tasks),
        "model": policy.decoder.config.to_dict(),  # type: ignore[union-attr,operator]
        "metrics": parent,
        "extra": {
            "target_return": dict(target_returns),
            "embedding_rms": policy.embedding_rms,
            "adapter": None if adapter is None else asdict(adapter),
            "networks": {name: describe(policy.networks(name)) for name in policy.tasks},
            **({"fallback": described} if (described := describe_fallbacks(fallbacks)) else {}),
            **({"guard": dict(guards)} if guards else {}),
        },
    }
    return write_bundle(
        folder,
        sparse=sparse,
        dense=state,
        manifest=manifest,
        values=values,
        mask=mask,
        group=group,
        compress=compress,
        transposed=[f"{name}.weight" for name, module in policy.named_modules() if isinstance(module, Conv1D)],
        overwrite=True,  # a resumed run writes it again
    )


def describe(networks: TaskNetworks) -> dict[str, Any]:
    """A task's networks as the edge builds them again without torch; encoder and head None where it cannot."""
    return {
        "encoder": networks.encoder.for_edge(),
        "head": networks.head.for_edge(),
        "max_steps": networks.max_steps,
        "window": networks.window,
        "return_scale": networks.return_scale,
        "relative_return": networks.relative_return,
        **({} if networks.conditioned else {"conditioned": False}),
        **({"independent": True} if networks.independent else {}),
    }


def describe_fallbacks(fallbacks: Mapping[str, Mapping[str, dict[str, Any]]]) -> dict[str, Any]:
    """The fall-back policies of each task that has any, the first as the default."""
    some = {name: policies for name, policies in fallbacks.items() if policies}
    return {name: {"default": next(iter(policies)), "policies": dict(policies)} for name, policies in some.items()}


def edge_inputs(networks: TaskNetworks) -> Mapping[str, Input] | None:
    """The inputs of a task's encoder at the edge; None where it has no counterpart there."""
    options = networks.encoder.for_edge()
    if options is None or options.get("kind") not in ENCODERS:
        return None
    weights = {name: to_numpy(tensor) for name, tensor in networks.encoder.state_dict().items()}
    encoder: EdgeEncoder = ENCODERS[options["kind"]](options, weights, networks.norm.weight.shape[0])
    return encoder.inputs


def to_numpy(tensor: Tensor) -> Array:
    """A tensor on the CPU as numpy has it; floating-point ones in float32."""
    tensor = tensor.detach().cpu()
    return np.ascontiguousarray((tensor.float() if tensor.is_floating_point() else tensor).numpy()).reshape(
        tensor.shape
    )


def policy_name(layer: str) -> str:
    """The name in the policy of a pruned layer: those of the backbone are reported by their name in the decoder."""
    return layer if layer.startswith("tasks.") else f"decoder.{layer}"


def zeros_of_task(layers: Mapping[str, Mapping[str, Any]], task_names: Sequence[str], task_name: str) -> dict[str, int]:
    """Name in the policy -> zeros, of the layers that the policy of one task has.

    `layers` are all that were pruned of the policy of `task_names`, with their `zeros`.
    """
    zeros = {policy_name(name): counts["zeros"] for name, counts in current_names(layers, task_names).items()}
    return {name: count for name, count in zeros.items() if name.startswith(("decoder.", f"tasks.{task_name}."))}
