"""The networks of one task at the edge, without torch: which there are, and how a bundle's description becomes them."""

from __future__ import annotations

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
from edgenetllm.tasks.supervised.networks import edge as supervised

Factory = Callable[[Mapping[str, Any], Mapping[str, Array], int], Any]
"""A class of encoders or heads: called with its description, its weights and the backbone's width."""

MOST_STEPS = 1 << 20  # of an episode or a window: a manifest may say anything
SMALLEST, FLOAT32 = 1e-30, 3e38  # within which all numbers here are

# A bundle names a kind, never code.
ENCODERS: dict[str, Factory] = {
    "vector": common.VectorEncoder,
    "abr_fused": abr.FusedEncoder,
    "abr_per_feature": abr.PerFeatureEncoder,
    "cjs_pointer": cjs.PointerEncoder,
    "cjs_per_stage": cjs.PerStageEncoder,
    "series": supervised.SeriesEncoder,
}
HEADS: dict[str, Factory] = {
    "choice": common.ChoiceHead,
    "gaussian": common.GaussianHead,
    "cjs_pointer": cjs.PointerHead,
    "cjs_place": cjs.PlaceHead,
    "rows": supervised.RowsHead,
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
    return_weight: Floats  # (width,); (0,) of a task that is not conditioned
    return_bias: Floats  # (width,)
    time: Floats  # (max_steps, width); (0, width) with a window, and of independent decisions
    norm_weight: Floats  # (width,)
    norm_bias: Floats  # (width,)
    conditioned: bool = True
    independent: bool = False

    @property
    def tokens_per_step(self) -> int:
        return self.encoder.tokens_per_step + self.conditioned + (not self.independent)

    @property
    def capacity(self) -> int:
        """The number of tokens of the longest sequence."""
        return self.tokens_per_step * (1 if self.independent else self.max_steps)

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
    fields, extra = _description(bundle, task, where), bundle.manifest.extra
    # Its numbers.
    max_steps, window = _count(fields, "max_steps", where), fields.get("window")
    if window is not None:
        window = _count(fields, "window", where)
    targets = extra.get("target_return")
    target = _number(targets.get(task) if isinstance(targets, dict) else None, "target_return", where)
    return_scale = _number(fields.get("return_scale"), "return_scale", where)
    if return_scale <= SMALLEST:
        raise UserError(f"{where}: its manifest says return_scale={return_scale!r}, which must be above zero")
    # Older bundles do not say the last two.
    switches = {"relative_return": None, "conditioned": True, "independent": False} | dict(fields)
    relative, conditioned, independent = (
        _switch(switches, name, where) for name in ("relative_return", "conditioned", "independent")
    )
    # Encoder and head.
    prefix = f"tasks.{task}."
    own = {name.removeprefix(prefix): bundle.array(name) for name in bundle.tensors if name.startswith(prefix)}
    encoder = _part("encoder", ENCODERS, fields, own, width, task, where, None if classes is None else classes[0])
    head = _part("head", HEADS, fields, own, width, task, where, None if classes is None else classes[1])
    # What the head of a known kind decides must be what the encoder has tokens for.
    if classes is None and encoder.actions != head.actions:
        raise UserError(f"{where}: the head of task {task} decides {head.actions}, its encoder takes {encoder.actions}")
    # All other weights.
    timed, nothing = window is None and not independent, np.empty(0, np.float32)
    shapes: dict[str, tuple[int, ...]] = {
        "norm.weight": (width,), "norm.bias": (width,),
        **({"return_to_go.weight": (width, 1), "return_to_go.bias": (width,)} if conditioned else {}),
        **({"time.weight": (max_steps, width)} if timed else {}),
    }  # fmt: skip
    outside = {name: weight for name, weight in own.items() if not name.startswith(("encoder.", "head."))}
    taken = take(outside, shapes, f"task {task}")
    time = taken["time.weight"].T if timed else np.empty((0, width), np.float32)
    return Networks(
        encoder=encoder,
        head=head,
        target_return=target,
        max_steps=max_steps,
        window=window,
        return_scale=return_scale,
        relative_return=relative,
        embedding_rms=_number(extra.get("embedding_rms"), "embedding_rms", where),
        return_weight=taken["return_to_go.weight"][0] if conditioned else nothing,
        return_bias=taken["return_to_go.bias"] if conditioned else nothing,
        time=np.ascontiguousarray(time),
        norm_weight=taken["norm.weight"],
        norm_bias=taken["norm.bias"],
        conditioned=conditioned,
        independent=independent,
    )


def _description(bundle: Bundle, task: str, where: str) -> Mapping[str, Any]:
    """The description of a task's networks in the manifest. Raises UserError for a bundle without."""
    described = bundle.manifest.extra.get("networks")
    fields: Any = described.get(task) if isinstance(described, dict) else None
    if not isinstance(fields, dict):
        raise UserError(
            f"{where} does not describe the networks of task {task}: export it again with this version (prune.py "
            "run=RUN), or load it with the whole template (evaluate.py)"
        )
    return fields


def _part(
    part: str,
    kinds: Mapping[str, Factory],
    fields: Mapping[str, Any],
    weights: Mapping[str, Array],
    width: int,
    task: str,
    where: str,
    given: Factory | None,
) -> Any:
    """The encoder or the head of a task: of the given class, else of the described kind."""
    stated = fields.get(part)
    options = stated if isinstance(stated, dict) else {}
    inside = {name.removeprefix(f"{part}."): weight for name, weight in weights.items() if name.startswith(f"{part}.")}
    if given is not None:
        return given(options, inside, width)
    kind = options.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        known = ", ".join(kinds)
        raise UserError(
            f"{where}: the {part} of task {task} is of kind {kind!r:.80}, and the edge knows {known}: give your own classes, "
            f"edge.load(..., networks={{{task!r}: (Encoder, Head)}}), or load it with the whole template"
        )
    try:
        return kinds[kind](options, inside, width)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{where}: the {part} of task {task} cannot be as its manifest says ({error!r:.200})") from None


def _count(fields: Mapping[str, Any], name: str, where: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not 1 <= value <= MOST_STEPS:
        raise UserError(f"{where}: its manifest says {name}={value!r:.80}, not a number of steps")
    return value


def _switch(fields: Mapping[str, Any], name: str, where: str) -> bool:
    value = fields.get(name)
    if not isinstance(value, bool):
        raise UserError(f"{where}: its manifest says {name}={value!r:.80}, neither true nor false")
    return value


def _number(value: Any, name: str, where: str) -> float:
    """A number within float32."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -FLOAT32 < value < FLOAT32:
        raise UserError(f"{where}: its manifest has no finite {name} (it says {value!r:.80})")
    return float(value)
