"""The networks of one task at the edge, without torch: which there are, and how a bundle's description becomes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgenetllm.edge.bundle import Bundle
from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.networks import edge as abr
from edgenetllm.tasks.cjs.networks import edge as cjs
from edgenetllm.tasks.common import edge as common
from edgenetllm.tasks.common.edge import EdgeEncoder, EdgeHead, take
from edgenetllm.tasks.common.layers import Floats
from edgenetllm.tasks.observation import Array

Factory = Callable[[Mapping[str, Any], Mapping[str, Array], int], Any]
"""A class of encoders or heads: called with its description, its weights and the backbone's width."""

# A bundle names a kind, never code.
ENCODERS: dict[str, Factory] = {
    "vector": common.VectorEncoder,
    "abr_fused": abr.FusedEncoder,
    "abr_per_feature": abr.PerFeatureEncoder,
    "cjs_pointer": cjs.PointerEncoder,
    "cjs_per_stage": cjs.PerStageEncoder,
}
HEADS: dict[str, Factory] = {
    "choice": common.ChoiceHead,
    "gaussian": common.GaussianHead,
    "cjs_pointer": cjs.PointerHead,
    "cjs_place": cjs.PlaceHead,
}


@dataclass(frozen=True)
class Networks:
    """Encoder and head of a task, and what else turns its steps into tokens (models/task_networks.py)."""

    encoder: EdgeEncoder
    head: EdgeHead
    target_return: float
    max_steps: int
    window: int | None
    return_scale: float
    relative_return: bool
    embedding_rms: float
    return_weight: Floats  # (width,)
    return_bias: Floats  # (width,)
    time: Floats  # (max_steps, width); (0, width) with a window
    norm_weight: Floats  # (width,)
    norm_bias: Floats  # (width,)

    @property
    def tokens_per_step(self) -> int:
        return self.encoder.tokens_per_step + 2

    @property
    def band(self) -> int | None:
        """Tokens that one can look back on, itself included; None: all of them."""
        return None if self.window is None else self.window * self.tokens_per_step


def task_of(bundle: Bundle, task: str | None, where: str) -> str:
    """The task that is meant. Raises UserError unless the bundle has it, or has one only."""
    names = bundle.manifest.task.split("+")
    if task is None and len(names) > 1:
        raise UserError(f"{where} has several tasks: choose one, task={names[0]!r} for instance ({', '.join(names)})")
    if task is not None and task not in names:
        raise UserError(f"{where} was made for task {bundle.manifest.task}, not {task}")
    return task or names[0]


def build_networks(
    bundle: Bundle, task: str, width: int, where: str, classes: tuple[Factory, Factory] | None = None
) -> Networks:
    """The networks of a task of a bundle; `classes` are its encoder and head where they are no known kinds.

    Raises UserError for a bundle that does not describe them, or whose tensors do not fit the description.
    """
    # The description, checked field by field.
    extra = bundle.manifest.extra
    described = extra.get("networks")
    fields: Any = described.get(task) if isinstance(described, dict) else None
    if not isinstance(fields, dict):
        raise UserError(
            f"{where} does not describe the networks of task {task}: export it again with this version (prune.py "
            "run=RUN), or load it with the whole template (evaluate.py)"
        )
    max_steps, window = _count(fields, "max_steps", where), fields.get("window")
    if window is not None:
        window = _count(fields, "window", where)
    targets = extra.get("target_return")
    target = targets.get(task) if isinstance(targets, dict) else None
    # The weights: those of the encoder, of the head, and the rest.
    prefix = f"tasks.{task}."
    own = {name.removeprefix(prefix): bundle.array(name) for name in bundle.tensors if name.startswith(prefix)}
    inside = {part: {name.removeprefix(f"{part}."): w for name, w in own.items() if name.startswith(f"{part}.")}
              for part in ("encoder", "head")}  # fmt: skip
    encoder, head = (
        _factory(kinds, fields.get(part), part, task, where, None if classes is None else classes[number])
        for number, (part, kinds) in enumerate((("encoder", ENCODERS), ("head", HEADS)))
    )
    shapes: dict[str, tuple[int, ...]] = {
        "return_to_go.weight": (width, 1), "return_to_go.bias": (width,), "norm.weight": (width,), "norm.bias": (width,),
        **({"time.weight": (max_steps, width)} if window is None else {}),
    }  # fmt: skip
    outside = {name: weight for name, weight in own.items() if not name.startswith(("encoder.", "head."))}
    taken = take(outside, shapes, f"task {task}")
    time = taken["time.weight"].T if window is None else np.empty((0, width), np.float32)
    return Networks(
        encoder=encoder(fields.get("encoder") or {}, inside["encoder"], width),
        head=head(fields.get("head") or {}, inside["head"], width),
        target_return=_number(target, "target_return", where),
        max_steps=max_steps,
        window=window,
        return_scale=_number(fields.get("return_scale"), "return_scale", where),
        relative_return=fields.get("relative_return") is True,
        embedding_rms=_number(extra.get("embedding_rms"), "embedding_rms", where),
        return_weight=taken["return_to_go.weight"][0],
        return_bias=taken["return_to_go.bias"],
        time=np.ascontiguousarray(time),
        norm_weight=taken["norm.weight"],
        norm_bias=taken["norm.bias"],
    )


def _factory(
    kinds: Mapping[str, Factory], described: Any, part: str, task: str, where: str, given: Factory | None
) -> Factory:
    """The class of an encoder or head: the given one, else that of the described kind."""
    if given is not None:
        return given
    kind = described.get("kind") if isinstance(described, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        known = ", ".join(kinds)
        raise UserError(
            f"{where}: the {part} of task {task} is of kind {kind!r}, and the edge knows {known}: give your own classes, "
            f"edge.load(..., networks={{{task!r}: (Encoder, Head)}}), or load it with the whole template"
        )
    return kinds[kind]


def _count(fields: Mapping[str, Any], name: str, where: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where}: its manifest says {name}={value!r}, not a number of steps")
    return value


def _number(value: Any, name: str, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: its manifest has no finite {name} (it says {value!r})")
    return float(value)
