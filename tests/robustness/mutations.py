"""Altered copies of files: of their bytes, of the numbers in their text, and of the values in their JSON.

All are functions of a `random.Random`, so that a case is reproduced from its number.
"""

from __future__ import annotations

import copy
import random
import re
from typing import Any

NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
ODD_NUMBERS = (
    b"0", b"-0", b"-1", b"1", b"3", b"255", b"256", b"65536", b"2147483648", b"-2147483649", b"9223372036854775808",
    b"1000000000000000", b"1e30", b"1e-300", b"5e-324", b"1e308", b"1e309", b"-1e309", b"nan", b"inf", b"0.0000001",
    b"1" * 400, b"0x10", b"1_000", b"1,5", b"1e", b"--1", b"\xd9\xa3",
)  # fmt: skip
ODD_BYTES = (
    b"\x00",
    b"\xff",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b"\x1b[31m",
    b"\xef\xbb\xbf",
    b"\xc3\x28",
    b"#",
    b"'",
    b'"',
    b"<b>",
)
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 10_000, 100_000_000, 1 << 31, 1 << 62, 1 << 64, 10**30, -(10**30), 0.0, 0.5, -0.5,
    1e-300, 1e300, float("nan"), float("inf"), "", "x", "../../etc/passwd", "/etc/passwd", "detr", "a" * 10_000, "\x1b[2J",
    "\ud800", "<script>", [], {}, [[]], [0], [None], [1e400], {"": None}, {"kind": "vector"}, [1] * 100,
)  # fmt: skip


def altered_bytes(data: bytes, chance: random.Random) -> bytes:
    """From one to four changes of the bytes: overwritten, removed, repeated, inserted or cut off."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        _alter_once(changed, chance)
    return bytes(changed)


def altered_numbers(data: bytes, chance: random.Random) -> bytes:
    """One to three numbers of the text replaced by odd ones."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        numbers = list(NUMBER.finditer(data))
        if not numbers:
            return altered_bytes(data, chance)
        at = chance.choice(numbers)
        data = data[: at.start()] + chance.choice(ODD_NUMBERS) + data[at.end() :]
    return data


def altered_text(data: bytes, chance: random.Random) -> bytes:
    """A change of bytes, of numbers, or of whole lines."""
    kind = chance.randrange(3)
    if kind == 0:
        return altered_bytes(data, chance)
    if kind == 1:
        return altered_numbers(data, chance)
    lines = data.splitlines(keepends=True)
    if not lines:
        return altered_bytes(data, chance)
    at = chance.randrange(len(lines))
    action = chance.randrange(4)
    if action == 0:
        del lines[at]
    elif action == 1:
        lines.insert(at, chance.choice(lines))
    elif action == 2:
        other = chance.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = chance.choice(ODD_BYTES) + lines[at]
    return b"".join(lines)


def altered_tree(tree: Any, chance: random.Random) -> Any:
    """A copy of a tree of dicts and lists with one to three nodes replaced, removed, renamed, swapped or added."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return chance.choice(ODD_VALUES)
        holder, key = chance.choice(places)
        action = chance.randrange(8)
        if action <= 3:
            holder[key] = copy.deepcopy(chance.choice(ODD_VALUES))
        elif action == 4:
            del holder[key]
        elif action == 5 and isinstance(holder, dict):
            holder[chance.choice((f"{key}x", "", "zzz", "n_" + str(key)))] = holder.pop(key)
        elif action == 6 and isinstance(holder, dict):
            holder[chance.choice(("kind", "unknown", "num_labels", "layers"))] = copy.deepcopy(
                chance.choice(ODD_VALUES)
            )
        else:
            other_holder, other_key = chance.choice(places)
            holder[key] = copy.deepcopy(other_holder[other_key]) if _has(other_holder, other_key) else None
    return tree


def _alter_once(data: bytearray, chance: random.Random) -> None:
    if not data:
        data += chance.choice(ODD_BYTES)
        return
    at = chance.randrange(len(data))
    length = chance.choice((1, 1, 2, 8, 64, 1024))
    action = chance.randrange(6)
    if action == 0:
        data[at] ^= 1 << chance.randrange(8)
    elif action == 1:
        data[at : at + length] = chance.randbytes(min(length, len(data) - at))
    elif action == 2:
        del data[at : at + length]
    elif action == 3:
        data[at:at] = data[at : at + length]
    elif action == 4:
        data[at:at] = chance.choice(ODD_BYTES)
    else:
        del data[at:]


def _places(tree: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every node below the root."""
    places: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        places += [(node, key) for key in keys]
        waiting += [node[key] for key in keys]
    return places


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)
