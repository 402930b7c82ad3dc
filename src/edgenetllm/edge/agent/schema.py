"""Observations and actions of a task as JSON Schema, and observations as arrays, from the inputs of its encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgenetllm.edge.networks import Networks
from edgenetllm.edge.observation import as_array
from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.networks.edge import PLACED, POINTED
from edgenetllm.tasks.cjs.networks.sizes import PLACES
from edgenetllm.tasks.common.edge import Input
from edgenetllm.tasks.observation import Array

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def task_schema(networks: Networks) -> Schema:
    """The schemas of one task: `observation`, `action`, and `max_steps`, the decisions of an episode (None: no end)."""
    actions = getattr(networks.head, "actions", None)  # of known kinds of heads
    return {
        "observation": observation_schema(networks.encoder.inputs, networks.encoder.ignored),
        "action": action_schema(actions),
        "max_steps": last_step(networks),
    }


def last_step(networks: Networks) -> int | None:
    """The number of decisions that a session may take; None with a window, which moves on without an end."""
    return networks.max_steps if networks.window is None and not networks.independent else None


def observation_schema(inputs: Mapping[str, Input], ignored: frozenset[str] | None) -> Schema:
    """The schema of one observation: `inputs` are read, `ignored` may be there (None: any other name may)."""
    return {
        "type": "object",
        "properties": {name: _value(one) for name, one in inputs.items()}
        | {name: {} for name in sorted(ignored or ())},
        "required": list(inputs),
        "additionalProperties": ignored is None,
    }


def _value(one: Input) -> Schema:
    """The schema of one input: a number, nested lists of a fixed shape, or a list of any number of those."""
    schema: Schema = {"type": "integer", "minimum": one.low, "maximum": one.high} if one.integer else {"type": "number"}
    for size in reversed(one.shape):
        schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
    if one.columns:
        schema["description"] = ", ".join(one.columns)
    return {"type": "array", "items": schema} if one.ragged else schema


def action_schema(actions: object) -> Schema:
    """The schema of an action, from `actions` of a known head; that of another package's head allows anything."""
    match actions:
        case ("a choice of", int(number)):
            return {"type": "integer", "minimum": 0, "maximum": number - 1}
        case ("numbers:", int(number)):
            return {"type": "array", "items": {"type": "number"}, "minItems": number, "maxItems": number}
        case ("rows:", int(rows), int(columns)):
            return _value(Input((rows, columns)))
        case str() if actions in (POINTED, PLACED):
            place: Schema = {"type": "integer", "minimum": -1, **({"maximum": PLACES - 1} if actions == PLACED else {})}
            return {
                "type": "array",
                "prefixItems": [place, {"type": "integer", "minimum": 0}],
                "items": False,
                "minItems": 2,
                "description": "place of a stage among the schedulable ones, -1 for none; executors",
            }
    return {}


def to_arrays(observation: Any, inputs: Mapping[str, Input]) -> dict[str, Array]:
    """The inputs of an observation that came as JSON, as arrays of one episode; names that are not read are checked later.

    Raises UserError, naming the input, for what is no number and for numbers of another shape.
    """
    if not isinstance(observation, dict):
        raise UserError("observation must be an object of names to numbers or lists of them: see /schema")
    arrays: dict[str, Array] = {}
    for name, value in observation.items():
        one = inputs.get(name)
        if one is None:
            arrays[name] = value
            continue
        array = as_array(value, f"observation: {name}")
        if array.dtype.kind == "b":
            raise UserError(f"observation: {name} is {value!r:.60}, not numbers")
        if one.ragged:
            array = array if array.shape != (0,) else array.reshape(0, *one.shape)
            fits = array.ndim == 1 + len(one.shape) and array.shape[1:] == one.shape
        else:
            fits = array.shape == one.shape
        if not fits:
            wanted = ("rows", *one.shape) if one.ragged else one.shape
            raise UserError(f"observation: {name} has shape {array.shape}, not ({', '.join(map(str, wanted))})")
        arrays[name] = array
    return arrays
