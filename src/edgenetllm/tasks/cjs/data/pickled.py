"""Dictionaries of numbers from a pickle, which runs nothing, and takes no more memory than its file has room for.

A pickle is a program for a small machine. Before it runs, all its instructions are looked at: only those that dictionaries,
lists, numbers and short texts need may be there, with sizes that the file itself holds. Python's own reader obeys others: one
instruction of five bytes makes it allocate gigabytes, and nested tuples overflow its stack.
"""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

from edgenetllm.reading import plain

MOST_TUPLES = 32  # numpy needs six for its array; tuples in tuples are a way to overflow the stack
# Instructions that take no argument or one of a fixed length, by the opcode's byte (pickletools.opcodes says what each does).
# The places in memory that PUT and GET name have two bytes at most, and no file here has as many.
PLAIN = re.compile(
    rb"(?:"
    rb"[(NR\]ae}subl)\x88\x89\x93\x94]"  # MARK NONE REDUCE lists dictionaries SETITEMS BUILD truth STACK_GLOBAL MEMOIZE
    rb"|[Kqh].|M..|J...."  # small whole numbers; BINPUT and BINGET
    rb"|[rj]..\x00\x00"  # LONG_BINPUT, LONG_BINGET
    rb"|\x80[\x02-\x05]|\x95....\x00\x00\x00\x00"  # PROTO, FRAME
    rb")*+",
    re.DOTALL,
)
TUPLES = b"t\x85\x86\x87"
SIZED = {b"U": 1, b"\x8c": 1, b"C": 1, b"\x8a": 1, b"X": 4}  # opcode -> bytes with the length: short texts, bytes, LONG1
GLOBAL, STOP = b"c", b"."
NAMES = frozenset(
    [("numpy", "ndarray"), ("numpy", "dtype")]
    + [(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")]  # numpy 1 and 2
)


class Foreign(Exception):
    """A pickle that asks for a function or class; the message says which."""


def unpickled_array(data: bytes) -> Any:
    """The one object of a pickled array without dimensions.

    Raises Foreign for a pickle that names what such an array has no use for; a garbled one may raise nearly anything.
    """
    check_instructions(data)
    array = _OnlyNumbers(io.BytesIO(data), encoding="latin1").load()
    return array.state[-1][0]


def check_instructions(data: bytes) -> None:
    """Raises Foreign or ValueError unless every instruction is one of those above, and complete."""
    place, tuples = 0, 0
    while True:
        place = PLAIN.match(data, place).end()  # type: ignore[union-attr]
        opcode = data[place : place + 1]
        if opcode == STOP:
            return
        if not opcode:
            raise ValueError("it ends too early")
        if opcode in TUPLES:
            tuples += 1
            if tuples > MOST_TUPLES:
                raise ValueError(f"its pickle builds more than {MOST_TUPLES} tuples, which job profiles have no use for")
            place += 1
        elif opcode in SIZED:
            begin = place + 1 + SIZED[opcode]
            place = begin + int.from_bytes(data[place + 1 : begin], "little")
        elif opcode == GLOBAL:
            module, _, rest = data[place + 1 : place + 400].partition(b"\n")
            name, end, _ = rest.partition(b"\n")
            _check_name(module.decode("latin1"), name.decode("latin1"))
            place += 1 + len(module) + 1 + len(name) + len(end)
        else:
            raise ValueError(f"its pickle has the instruction {opcode!r}, which job profiles have no use for")


class _Inert:
    """Stands for numpy's classes while unpickling: keeps the state of the array, whose last entry is its list of objects."""

    state: Any = None

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        self.state = state


class _OnlyNumbers(pickle.Unpickler):
    """Builds dictionaries, lists and numbers. Three names of numpy become `_Inert`; no other can be called or imported."""

    def find_class(self, module: str, name: str) -> Any:
        _check_name(module, name)
        return _Inert


def _check_name(module: str, name: str) -> None:
    if (module, name) not in NAMES:
        raise Foreign(f"its pickle asks for {plain(f'{module}.{name}')}, which job profiles have no use for; it was not run")
