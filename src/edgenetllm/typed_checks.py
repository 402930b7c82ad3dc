"""The values that were typed, each checked by the option that it is typed for: only the class of that option is imported.

Everything else of a configuration is checked later and as a whole (`config.py`), which imports all of it. Here a path must
also be there: that of a saved configuration may be gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from edgenetllm.affects import target_class
from edgenetllm.errors import UserError
from edgenetllm.mistakes import explain_mistakes, shown
from edgenetllm.nodes import describe, unknown_key
from edgenetllm.option_schema import adapter_of, fields_of
from edgenetllm.option_types import TYPED
from edgenetllm.plain_checks import GROUPS_OF_OBJECTS
from edgenetllm.sections import Settings
from edgenetllm.task_settings import named_tasks

EXPERT = ("experience", "expert")  # objects in a section of plain values


def check_typed(words: Sequence[str], settings: Mapping[str, Any], groups: Collection[str]) -> None:
    """Raises UserError for typed values that are wrong by themselves; `groups` are those of which options are chosen."""
    overrides = [one for one in OverridesParser.create().parse_overrides(list(words)) if _is_value(one, groups)]
    problems = [problem for one in overrides for problem in _problems(one.key_or_group.split("."), settings)]
    if problems:
        raise UserError(*dict.fromkeys(problems))


def _is_value(override: Override, groups: Collection[str]) -> bool:
    """True for `key=value`, also with a plus before it; not for a choice of a group, a deletion, a sweep or Hydra's own."""
    key = override.key_or_group
    is_other = key in groups or "/" in key or key.partition(".")[0] == "hydra" or override.package is not None
    return not (is_other or override.is_delete() or override.is_sweep_override())


def _problems(keys: list[str], settings: Mapping[str, Any]) -> list[str]:
    """Sentences on the value of the option at `keys`; none where the option accepts it, or another check will say."""
    nodes = list(_along(keys, settings))
    if len(nodes) <= len(keys):  # not there: Hydra, or the check of the whole, says so
        return []
    value = nodes[-1]
    # The class that owns the option: that of the innermost node around it, or the sections.
    owner: Any = Settings
    start = 0
    if is_object := keys[0] in GROUPS_OF_OBJECTS or tuple(keys[:2]) == EXPERT:
        start = max((depth for depth, node in enumerate(nodes[:-1]) if "_target_" in node), default=0)
        if start == 0:
            return []
        if keys[-1] == "_target_":
            return _target_problems(".".join(keys), value)
        owner = target_class(nodes[start])
    prefix, place, fields = "".join(f"{key}." for key in keys[:start]), keys[start:], fields_of(owner)
    if is_object and fields and place[0] not in fields:
        return [unknown_key(prefix + place[0], [prefix + name for name in fields])]
    # The value by itself, or those of each task.
    field = _field(owner, place)
    adapter = None if field is None or _is_node(value) else adapter_of(field)
    if adapter is None:
        return []
    problems = []
    for one in _by_task(value, named_tasks(settings.get("task"))):
        try:
            adapter.validate_python(one, context=TYPED)
        except ValidationError as error:
            problems += explain_mistakes(error, prefix, owner, one, tuple(place))
    return problems


def _along(keys: Sequence[str], node: Any) -> Iterator[Any]:
    """The settings, and what lies at each of the keys below one another, as far as they are there."""
    yield node
    for key in keys:
        if not isinstance(node, Mapping) or key not in node:
            return
        node = node[key]
        yield node


def _target_problems(path: str, target: Any) -> list[str]:
    try:
        describe(target)
    except ImportError as error:
        return [f"{path}={shown(target)}: {error}"]
    return []


def _field(owner: Any, place: Sequence[str]) -> FieldInfo | None:
    """The field at `place` of a model and of the models in it; None for what no model describes."""
    field = None
    for key in place:
        field = fields_of(owner).get(key)
        if field is None:
            return None
        inner = (field.annotation, *get_args(field.annotation))
        owner = next((one for one in inner if hasattr(one, "model_fields")), None)
    return field


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


def _by_task(value: Any, names: Sequence[str]) -> list[Any]:
    """The values of a mapping from the names of all tasks, or the value itself."""
    return list(value.values()) if isinstance(value, Mapping) and names and set(value) == set(names) else [value]
