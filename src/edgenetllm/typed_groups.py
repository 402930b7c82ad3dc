"""Words of a command that choose options of config groups, checked before Hydra composes them: for null, a number or a list
without entries it has no sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from pydantic import TypeAdapter, ValidationError

from edgenetllm.composition import PRESET_GROUPS, config_folders, no_such_option
from edgenetllm.errors import UserError
from edgenetllm.mistakes import shown
from edgenetllm.option_types import TYPED, WritableFolder

MAY_BE_EMPTY = (*PRESET_GROUPS, "logger")  # without a choice: as it is, and no logger
HYDRA_CONF = Path(hydra.__file__).parent / "conf"  # options of Hydra's own groups
HYDRA_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir")


def check_choices_typed(words: Sequence[str]) -> list[str]:
    """The words, null spelled as Hydra takes it where a group may be empty.

    Raises UserError for a choice that is none, with the options that there are, and for a folder of Hydra's that cannot be.
    """
    folders = [*config_folders(words), HYDRA_CONF]
    return [word if word.startswith("-") else _checked(word, folders) for word in words]


def _checked(word: str, folders: Sequence[Path]) -> str:
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:  # Hydra says so itself
        return word
    if override.key_or_group in HYDRA_FOLDERS:
        _check_folder(override)
    options = _options(override.key_or_group, folders)
    is_group = bool(options) or override.key_or_group.startswith("hydra/")
    if not is_group or override.is_sweep_override():
        return word
    group, value = override.get_key_element(), override.value()
    is_empty = value is None or value == []
    if override.is_delete() and value is None and override.key_or_group not in MAY_BE_EMPTY:
        raise UserError(f"{word}: {group} cannot be left out: choose one of {', '.join(options)}")
    if override.is_delete() or _is_choice(value) or (is_empty and override.key_or_group in MAY_BE_EMPTY):
        return f"{group}=[]" if value is None and not override.is_delete() else word
    raise UserError(no_such_option(group, word.partition("=")[2], options))


def _options(group: str, folders: Sequence[Path]) -> list[str]:
    """The options of a group; none of a key that is no group."""
    files = [path for folder in folders for path in (folder / group).glob("*.yaml") if not path.stem.startswith("_")]
    return sorted({path.stem for path in files})


def _is_choice(value: Any) -> bool:
    """True for a name, or several, of files in the folder of a group."""
    names = value if isinstance(value, list) else [value]
    return bool(names) and all(isinstance(name, str) and not {"", ".", ".."} & set(name.split("/")) for name in names)


def _check_folder(override: Override) -> None:
    value = override.value()
    if isinstance(value, str) and "${" in value:
        return
    try:
        TypeAdapter(WritableFolder).validate_python(value, context=TYPED)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{override.key_or_group}={shown(value)}: {message[0].lower()}{message[1:]}") from None
