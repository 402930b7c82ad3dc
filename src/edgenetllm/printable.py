"""Text from elsewhere, such as the name of a file, as it is shown: nothing in it moves a cursor or begins a line."""

from __future__ import annotations

import re
import sys
import unicodedata
from typing import TextIO

LONGEST = 1400  # characters of a line of an error: longer ones lose their middle


def printable(text: str) -> str:
    """The text with control characters, bidirectional marks and halves of characters escaped: `\\x1b`, `\\u202e`.

    Line breaks stay.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" or _is_space(one) else _escaped(one) for one in text)


def single_line(text: str) -> str:
    """`printable`, with a space in place of each line break and the blanks around it."""
    parts = (part.strip() for part in re.split(r"[\r\n]", text))
    return printable(" ".join(filter(None, parts)) if "\n" in text or "\r" in text else text)


def shortened(text: str, longest: int = LONGEST) -> str:
    """The text, of which an overlong one loses its middle."""
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2 - 1]} … {text[len(text) - longest // 2 + 2 :]}"


def say_error(error: Exception) -> None:
    """Print the lines of an error on standard error."""
    say(*f"error: {error}".split("\n"), file=sys.stderr)


def say(*lines: object, file: TextIO | None = None) -> None:
    """Print each argument as one line, at once; to standard output unless `file` is given."""
    print(*(single_line(str(line)) for line in lines), sep="\n", file=file or sys.stdout, flush=True)


def _is_space(character: str) -> bool:
    return unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
