"""The options of a class, as pydantic knows them: the field behind a key, and in words what it accepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError
from pydantic.fields import FieldInfo

NOUNS = {
    "boolean": "true or false",
    "string": "a text",
    "object": "keys with values, {key: value}",
    "null": "null",
    "folder": "a folder",
    "writable-folder": "a folder that can be written to",
    "existing-folder": "a folder that is there",
    "existing-path": "a file or a folder that is there",
    "existing-file": "a file that is there",
    "path-or-name": "a path or a name",
}

ENDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


def fields_of(owner: Any) -> dict[str, FieldInfo]:
    """Name as it is typed -> field, of the options of a pydantic model or dataclass; none of any other class.

    A plain class that inherits from one has options that pydantic does not know, and is another class.
    """
    own = vars(owner) if isinstance(owner, type) else {}
    fields = own.get("__pydantic_fields__") or {}
    return {field.alias or name: field for name, field in fields.items() if field.init is not False}


def adapter_of(field: FieldInfo) -> TypeAdapter[Any] | None:
    """The validation of a value of this field alone; None where it is described by no type that pydantic knows."""
    try:
        kind: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        return TypeAdapter(kind)
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None


def schema_of(field: FieldInfo) -> dict[str, Any] | None:
    """The JSON schema of a field; None for one that holds an object."""
    adapter = adapter_of(field)
    try:
        return None if adapter is None else adapter.json_schema()
    except PydanticInvalidForJsonSchema:
        return None


def schema_at(owner: Any, path: Sequence[str | int]) -> dict[str, Any] | None:
    """The JSON schema of the option at `path` below a class, through lists and inner models; None where there is none."""
    field = fields_of(owner).get(str(path[0])) if path else None
    whole = None if field is None else schema_of(field)
    node: dict[str, Any] | None = whole
    for key in path[1:]:
        node = None if node is None or whole is None else _inside(node, key, whole)
    return None if node is None or whole is None else {"$defs": whole.get("$defs", {}), **node}


def _inside(schema: Mapping[str, Any], key: str | int, whole: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema of an entry of a list, or of an option of an inner model."""
    for branch in _branches(schema, whole):
        if isinstance(key, int) and "items" in branch:
            return dict(branch["items"])
        if isinstance(key, int) and key < len(branch.get("prefixItems", ())):
            return dict(branch["prefixItems"][key])
        if isinstance(key, str) and key in branch.get("properties", {}):
            return dict(branch["properties"][key])
    return None


def names_in(schema: Mapping[str, Any]) -> list[str]:
    """The keys that a JSON schema of a model, or of several, describes."""
    return [name for branch in _branches(schema, schema) for name in branch.get("properties", {})]


def _branches(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The alternatives of a schema, references replaced by what they name."""
    if "$ref" in schema:
        return _branches(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in schema:
        return [branch for one in schema["anyOf"] for branch in _branches(one, whole)]
    return [schema]


def in_words(schema: Mapping[str, Any], whole: Mapping[str, Any] | None = None) -> str:
    """The values that a JSON schema accepts, as the end of a sentence: `a whole number from 1 to 10, or null`.

    `whole` is the schema that holds the definitions, where that is another one.
    """
    words = [_branch_in_words(branch, whole or schema) for branch in _branches(schema, whole or schema)]
    return ", or ".join(dict.fromkeys(words))


def _branch_in_words(branch: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    choices = branch.get("enum", [branch["const"]] if "const" in branch else None)
    if choices is not None:
        return ("one of " if len(choices) > 1 else "") + ", ".join(map(str, choices))
    kind = str(branch.get("type"))
    if kind == "array":
        items = branch.get("prefixItems") or [branch.get("items", {})]
        fewest = branch.get("minItems", 0)
        least = f"of at least {'one entry' if fewest == 1 else f'{fewest} entries'}, " if fewest else ""
        return f"a list, {least}each {' and '.join(in_words(one, whole) for one in items)}"
    if kind in ("integer", "number"):
        return f"{'a whole number' if kind == 'integer' else 'a number'}{_range_in_words(branch)}"
    if kind == "string" and "pattern" in branch:
        return f"a text that matches {branch['pattern']}"
    return NOUNS.get(branch.get("format", ""), NOUNS.get(kind, "another value"))


def _range_in_words(branch: Mapping[str, Any]) -> str:
    least, most = branch.get("minimum"), branch.get("maximum")
    if least is not None and most is not None:
        return f" from {least} to {most}"
    ends = [f"{word} {branch[key]}" for key, word in ENDS.items() if key in branch]
    return f" {' and '.join(ends)}" if ends else ""
