"""Objects from `_target_` nodes, whose classes validate their own options."""

from __future__ import annotations

import traceback
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from pydantic import ValidationError

from edgenetllm.errors import UserError
from edgenetllm.mistakes import explain_mistakes


def build(group: str, node: dict[str, Any], **more: object) -> Any:
    """Instantiate a `_target_` node whose class validates its own options."""
    if not isinstance(node, dict) or "_target_" not in node:
        raise UserError(f"{group}: the configuration of this group needs a _target_")
    try:
        # Partial, so that `more` reaches the class untouched: Hydra would turn dataclasses into dicts.
        return instantiate(node, _partial_=True, _convert_="all")(**more)
    except ValidationError as error:
        raise UserError(*_mistakes(error, group, node, more)) from None
    except TypeError as error:  # a class that lacks methods, or that takes other arguments
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not frame.f_globals["__name__"].startswith(("hydra.", __name__)):  # an error inside of the class
            raise
        raise UserError(f"{group}: {error}") from None
    except InstantiationException as error:
        if isinstance(error.__cause__, ValidationError):  # of an object inside the group
            inner = next(key for key, value in node.items() if isinstance(value, dict) and "_target_" in value)
            raise UserError(*_mistakes(error.__cause__, f"{group}.{inner}", node[inner], {})) from None
        text = str(error.__cause__ or error)
        advice = " (a package of your own has to lie on PYTHONPATH)" if "No module named" in text else ""
        raise UserError(f"{group}._target_={node['_target_']}: {text}{advice}") from None


def _mistakes(error: ValidationError, path: str, node: dict[str, Any], more: dict[str, Any]) -> list[str]:
    """A line for each mistake; data of another task is one by itself."""
    for mistake in error.errors():
        if mistake["type"] == "is_instance_of" and (path, mistake["loc"]) == ("task", ("data",)):
            name = getattr(mistake["input"], "name", mistake["input"])
            return [f"data={name} is not for this task, which needs a {mistake['ctx']['class']}"]
    return explain_mistakes(error, f"{path}.", get_class(node["_target_"]), {**node, **more})
