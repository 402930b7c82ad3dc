"""The bundle of a specialised policy: the sparse file of its parent, byte by byte, and a dense file of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.bundle_writer import write_around_sparse
from edgenetllm.edge.diff import Difference, compare
from edgenetllm.edge.export import describe, to_numpy
from edgenetllm.edge.manifest import Manifest
from edgenetllm.models.policy import PolicyNetwork


def sparse_names(bundle: Path) -> set[str]:
    """The names of the tensors in a bundle's sparse file."""
    manifest = read_bundle(bundle, lazily=True).manifest
    return {name for name, entry in manifest.tensors.items() if entry.kind == "sparse"}


def write_specialised(
    parent: Path,
    folder: Path,
    policy: PolicyNetwork,
    target_returns: Mapping[str, float],
    trained: Collection[str],
    group: int | None,
    more: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> tuple[dict[str, Any], Difference]:
    """Write the bundle of a policy that was specialised on the backbone of `parent`; its sizes, and what must travel.

    `more` are further entries of the manifest's `extra`, such as guard and fall-back of each task. An earlier bundle in
    `folder` is replaced. Raises RuntimeError where it differs from its parent in a tensor of the backbone that was not
    trained.
    """
    before = read_bundle(parent).manifest
    kept = {name for name, entry in before.tensors.items() if entry.kind == "sparse"}
    state = {name: tensor for name, tensor in policy.state_dict().items() if name not in kept}
    sizes = write_around_sparse(
        parent,
        folder,
        dense={name: to_numpy(tensor) for name, tensor in state.items()},
        manifest={
            "task": "+".join(policy.tasks),
            "model": before.model,
            "metrics": before.metrics,
            "extra": {**_extra(before, policy, target_returns), **more},
        },
        group=group,
        overwrite=True,  # a run that is started again writes it again
    )
    difference = compare(parent, folder)
    check_backbone(difference, trained)
    return sizes, difference


def _extra(before: Manifest, policy: PolicyNetwork, target_returns: Mapping[str, float]) -> dict[str, Any]:
    """The parent's `extra` without what is of its own training (guard, fall-back), and this policy's entries by task."""
    tasks = list(policy.tasks)
    return {
        **{name: value for name, value in before.extra.items() if name not in ("guard", "fallback")},
        "target_return": dict(target_returns),
        "networks": {name: describe(policy.networks(name)) for name in tasks},
        "specialised_from": before.digest,
    }


def check_backbone(difference: Difference, trained: Collection[str]) -> None:
    """Raises RuntimeError where a file or tensor of the backbone differs that was not trained."""
    tensors = [item.name for item in difference.tensors if item.change != "same" and item.name.startswith("decoder.")]
    if wrong := sorted(set(tensors) - set(trained)):
        raise RuntimeError(f"specialisation changed {wrong[0]} of the backbone in the bundle: a bug")
