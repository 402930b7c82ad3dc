"""Objects from `_target_` nodes, whose classes validate their own options, and the messages on what they refuse."""

from __future__ import annotations

import dataclasses
import traceback
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from pydantic import ValidationError

from edgenetllm.errors import UserError
from edgenetllm.nodes import unknown_key


def build(group: str, node: dict[str, Any], **more: object) -> Any:
    """Instantiate a `_target_` node whose class validates its own options."""
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"{group}: the configuration of this group needs a _target_")
    try:
        # Partial, so that `more` reaches the class untouched: Hydra would turn dataclasses into dicts.
        return instantiate(node, _partial_=True, _convert_="all")(**more)
    except ValidationError as error:
        raise UserError(*explain_mistakes(error, f"{group}.", get_class(node["_target_"]))) from None
    except TypeError as error:  # a class that lacks methods, or that takes other arguments
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not frame.f_globals["__name__"].startswith(("hydra.", __name__)):  # an error inside of the class
            raise
        raise UserError(f"{group}: {error}") from None
    except InstantiationException as error:
        if isinstance(error.__cause__, ValidationError):  # of an object inside the group
            inner = next(key for key, value in node.items() if isinstance(value, dict) and "_target_" in value)
            schema = get_class(node[inner]["_target_"])
            raise UserError(*explain_mistakes(error.__cause__, f"{group}.{inner}.", schema)) from None
        text = str(error.__cause__ or error)
        advice = ["A package of your own has to lie on PYTHONPATH"] if "No module named" in text else []
        raise UserError(f"{group}: {text}", *advice) from None


def explain_mistakes(error: ValidationError, prefix: str, schema: type) -> list[str]:
    """One line per mistake, each with the override as it is typed."""
    lines = []
    for mistake in error.errors():
        path = ".".join(str(key) for key in mistake["loc"])
        if mistake["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            lines.append(unknown_key(prefix + path, [prefix + name for name in _fields(schema, mistake["loc"][:-1])]))
        elif mistake["type"] in ("missing", "missing_argument"):
            lines.append(f"{prefix}{path} is missing from the configuration")
        elif mistake["type"] == "is_instance_of" and prefix + path == "task.data":
            name = getattr(mistake["input"], "name", mistake["input"])
            lines.append(f"data={name} is not for this task, which needs a {mistake['ctx']['class']}")
        else:
            message = mistake["msg"].removeprefix("Value error, ")
            lines.append(f"{prefix}{path}={mistake['input']!r}: {message[0].lower()}{message[1:]}")
    return lines


def _fields(schema: Any, path: tuple[Any, ...]) -> list[str]:
    """Names of the fields at `path`, dotted."""
    prefix = ""
    for key in path:
        schema = getattr(schema, "model_fields", {}).get(key)
        schema = getattr(schema, "annotation", None)
        prefix += f"{key}."
    if schema is not None and dataclasses.is_dataclass(schema):
        return [f"{prefix}{field.name}" for field in dataclasses.fields(schema)]
    return [f"{prefix}{name}" for name in getattr(schema, "model_fields", {})]
