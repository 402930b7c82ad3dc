"""Errors as one readable message: the user's own under Hydra's wrapping, Hydra's with what to type."""

from __future__ import annotations

import difflib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

from edgenetllm.commands import quoted
from edgenetllm.composition import CONF, config_folders, no_such_option
from edgenetllm.errors import UserError
from edgenetllm.mistakes import cut
from edgenetllm.printable import single_line

ADDED_KINDS = {  # groups that take more than their own keys
    "callbacks": "Another callback",
    "logger": "Another logger",
    "trainer": "Another argument of lightning.Trainer",
}


def explain(error: BaseException, words: Sequence[str]) -> str:
    """`error: ...`, for a UserError or an error of Hydra or OmegaConf; `words` are the overrides that were typed."""
    for cause in _chain(error):
        if isinstance(cause, UserError):
            return f"error: {cause}"
        if isinstance(cause, OverrideParseException):
            return f"error: {_grammar(cause)}"
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file and cause.options:
            group, _, option = cause.missing_cfg_file.rpartition("/")
            return f"error: {no_such_option(group, option, cause.options)}"
    message = str(error).strip()
    if isinstance(error, ConfigCompositionException):
        unknown = re.search(r"Could not override '([^']+)'", message)
        if unknown:
            return f"error: {_unknown_key(unknown[1], words)}"
        several = re.search(r"Ambiguous value for argument '(.*)'", message)
        if several:
            return f"error: {_several_values(several[1])}"
    if error.__cause__ is not None:
        message += f" ({error.__cause__})"
    return f"error: {single_line(message)}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _grammar(error: OverrideParseException) -> str:
    key, given, value = error.override.partition("=")
    if not given:
        return f"{error.override!r}: an override is key=value (options such as -m come before the overrides)"
    typed = shlex.quote(f"{key}={quoted(value)}")
    return (
        f"{cut(error.override)}: spaces, =, commas, quotes and brackets have a meaning in Hydra's grammar; if the value "
        f"is meant as it stands, quote it for Hydra and for the shell: {cut(typed)}"
    )


def _several_values(word: str) -> str:
    key, _, value = word.partition("=")
    return (
        f"{word} stands for several values: a sweep over them needs -m; one string is "
        f"{shlex.quote(f'{key}={quoted(value)}')}, a list {shlex.quote(f'{key}=[{value}]')}"
    )


def _unknown_key(key: str, words: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, sorted(_known_keys(words)), n=1, cutoff=0.6)
    if near == [key]:  # Hydra first composes without the choices of a sweep
        group = key.partition(".")[0]
        return f"{key} belongs to some choices of {group} only: in a sweep over these, type ++{key}=..."
    hint = f" Did you mean {near[0]!r}?" if near else " `--cfg job` shows all keys."
    added = ADDED_KINDS.get(key.partition(".")[0])
    plus = f" {added} is added with a plus: +{key}=..." if added and "." in key else ""
    return f"{key!r} is not a key of the configuration.{hint}{plus}"


def _known_keys(words: Sequence[str]) -> set[str]:
    """Dotted keys of the configuration that the groups among `words` compose; in a sweep over groups those of each."""
    folders = config_folders(sys.argv[1:])
    chosen = [_choices(word) for word in words if _is_group(word, folders)]
    own = [f"hydra.searchpath=[{quoted(folder.as_uri())}]" for folder in folders[1:]]
    keys: set[str] = set()
    before = GlobalHydra.instance().hydra
    try:
        for number in range(max(map(len, chosen), default=1)):
            GlobalHydra.instance().clear()
            with initialize_config_dir(str(CONF), version_base="1.3"):
                composed = compose("config", [*own, *(options[min(number, len(options) - 1)] for options in chosen)])
            keys |= set(_dotted(OmegaConf.to_container(composed, resolve=False)))
    except HydraException:
        return keys  # a second mistake, which is said when this one is corrected
    finally:
        GlobalHydra.instance().hydra = before
    return keys


def _is_group(word: str, folders: Sequence[Path]) -> bool:
    group = word.partition("=")[0].lstrip("+~").partition("@")[0]
    return any((folder / group).is_dir() for folder in folders)


def _choices(word: str) -> list[str]:
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return [word]
    return [f"{override.get_key_element()}={option}" for option in override.sweep_string_iterator()]


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield f"{prefix}{name}"
            yield from _dotted(value, f"{prefix}{name}.")
