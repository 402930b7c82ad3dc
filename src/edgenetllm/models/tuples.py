"""The sizes of the tuples that a pickle builds, found without building them.

A tuple can be a key of a dictionary, and Python hashes it value by value: one that holds another three times, which holds a
third one three times, takes hours, in a file of a thousand bytes.
"""

from __future__ import annotations

import pickletools

HASHED_BY_VALUE = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET")


def check_tuples(pickled: bytes, most: int) -> None:
    """Raises ValueError where a tuple, written out, has more than `most` values, and for what is no pickle."""
    stack: list[int] = []  # of each object: the values of a tuple, 1 for anything else
    marks: list[int] = []  # the lengths of the stack where MARK stands
    memo: dict[object, int] = {}  # place in memory -> the same
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name == "MARK":
            marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken = _take(stack, marks, opcode)
            size = 1 + sum(taken) if name in HASHED_BY_VALUE else 1
            if size > most:
                raise ValueError(f"a tuple of it holds more than {most:,} values")
            stack += [size] * len(opcode.stack_after)


def _take(stack: list[int], marks: list[int], opcode: pickletools.OpcodeInfo) -> list[int]:
    """Remove from the stack what an instruction takes, down to the last mark where it wants one, and return it."""
    before = opcode.stack_before
    if pickletools.markobject in before:
        end = marks.pop()
        begin = end - before.index(pickletools.markobject)
    else:
        begin = len(stack) - len(before)
    if begin < 0:
        raise ValueError(f"its instruction {opcode.name} has nothing to work on")
    taken = stack[begin:]
    del stack[begin:]
    return taken
