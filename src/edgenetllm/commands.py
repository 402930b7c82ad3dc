"""Commands to type: every word quoted for Hydra's grammar where it has to be, and then for the shell."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from edgenetllm.errors import UserError
from edgenetllm.mistakes import cut

CALL_OPTIONS = ("resume", "dry_run")  # not of the command that goes on
LISTS = ("replay.policies", "replay.cloud_ms")  # options of one run that have several values


def quoted(value: object) -> str:
    """A value as Hydra's grammar and OmegaConf's interpolation read it back, whatever characters it has."""
    literal = re.sub(r"(\\*)\$\{", lambda match: rf"{2 * match[1]}\${{", str(value))
    return QuotedString(literal, Quote.single).with_quotes()


def word(key: str, value: object) -> str:
    """`key=value`, with quotes only where Hydra would read something else than the string `value` without them."""
    plain = f"{key}={value}"
    return plain if "${" not in plain and _reads_as(plain, str(value)) else f"{key}={quoted(value)}"


def _reads_as(typed: str, value: str) -> bool:
    try:
        override = OverridesParser.create().parse_override(typed)
        return not override.is_sweep_override() and override.value() == value
    except HydraException:
        return False


def value_of(typed: str) -> str:
    """The string that Hydra and OmegaConf read in `key=value`; of a sweep over several values, as it is typed."""
    override = OverridesParser.create().parse_override(typed)
    if override.is_sweep_override():
        return typed.partition("=")[2]
    return str(OmegaConf.create({"value": override.value()}).value)


def with_lists(words: Sequence[str]) -> list[str]:
    """The words of a command, with `replay.cloud_ms=0,100` as the list `replay.cloud_ms=[0,100]`; with -m it is a sweep."""
    if {"-m", "--multirun"} & set(words):
        return list(words)
    parts = [word.partition("=") for word in words]
    return [
        f"{key}=[{value}]" if key in LISTS and "," in value and value[0] not in "['\"" else word
        for word, (key, _, value) in zip(words, parts, strict=True)
    ]


def with_run(words: Sequence[str]) -> list[str]:
    """The words of a command, with `verify=FOLDER` as `run=FOLDER verify=true`: the run that is replayed from its record."""
    at = next((number for number, word in enumerate(words) if word.startswith("verify=")), None)
    if at is None or words[at].partition("=")[2].lower() in ("true", "false", "null", ""):
        return list(words)
    folder = words[at].partition("=")[2]
    if not os.path.isdir(value_of(words[at])):
        raise UserError(f"{cut(words[at])}: give the folder of a finished run, or true next to run=")
    return [*words[:at], f"run={folder}", "verify=true", *words[at + 1 :]]


def config_dir(words: Sequence[str]) -> Path | None:
    """The folder with more options of config groups that the words of a command name, by `--config-dir`."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    parser.add_argument("--cfg", "-c")  # Hydra's, which would be taken for the beginning of -cd
    folder: Path | None = parser.parse_known_args(list(words))[0].config_dir
    return folder


def shell(words: Sequence[str]) -> str:
    """One line for a shell that starts this process's program again, with these words.

    A script is given to `python`; an installed program is called by its name where the shell finds it under that name. A
    `--config-dir` of this process is typed again.
    """
    program = sys.argv[0]
    own = config_dir(sys.argv[1:])
    if own is not None and config_dir(words) is None:
        words = ["--config-dir", str(own), *words]
    if program.endswith(".py"):
        return shlex.join(["python", program, *words])
    name = Path(program).name
    installed = shutil.which(name)
    by_name = installed is not None and Path(program).exists() and Path(installed).samefile(program)
    return shlex.join([name if by_name else program, *words])


def going_on(typed: Sequence[str], folder: Path) -> str:
    """The command line of words that were typed, with `resume=` of the folder of a run or sweep."""
    words = [argument for argument in typed if argument.partition("=")[0] not in CALL_OPTIONS]
    # among the overrides, which argparse wants together
    at = next((place for place, argument in enumerate(words) if re.match(r"[^-].*=", argument)), len(words))
    return shell([*words[:at], word("resume", folder), *words[at:]])
