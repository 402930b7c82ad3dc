"""Arrays in numpy's file format, without numpy's reader: a header is a fixed text, and nothing is allocated by what it claims."""

from __future__ import annotations

import re
from math import prod
from typing import NamedTuple

import numpy as np

MAGIC = b"\x93NUMPY"
LENGTH_BYTES = {1: 2, 2: 4, 3: 4}  # version of the format -> bytes that hold the length of the header
HEADER = re.compile(
    rb"\{'descr': '(?P<type>[<>|=]?[a-zA-Z]\d{0,4})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(\d{1,9}, ?)*(\d{1,9})?,?)\), ?\} *\n?"
)
NUMBER = re.compile(r"[<>|=]?[biuf][1248]")


class Header(NamedTuple):
    type: str  # as numpy writes it, such as <f8
    fortran: bool
    shape: tuple[int, ...]


def split(data: bytes) -> tuple[Header, bytes]:
    """The header of a file, and what follows it. Raises ValueError for what no version of numpy writes."""
    version = data[len(MAGIC)] if data.startswith(MAGIC) and len(data) > len(MAGIC) + 2 else 0
    if version not in LENGTH_BYTES:
        raise ValueError("it does not begin as an array does")
    begin = len(MAGIC) + 2 + LENGTH_BYTES[version]
    end = begin + int.from_bytes(data[len(MAGIC) + 2 : begin], "little")
    header = HEADER.fullmatch(data[begin:end]) if end <= len(data) else None
    if header is None:
        raise ValueError("its header is not one of a plain array")
    shape = tuple(int(size) for size in re.findall(rb"\d+", header["shape"]))
    return Header(header["type"].decode(), header["fortran"] == b"True", shape), data[end:]


def numbers(data: bytes) -> np.ndarray:
    """An array of numbers or truth values. Raises ValueError for any other, and where the bytes are not those of its shape."""
    header, body = split(data)
    if not NUMBER.fullmatch(header.type):
        raise ValueError(f"its values are of the type {header.type}, no numbers")
    try:
        dtype = np.dtype(header.type)
    except TypeError:
        raise ValueError(f"there is no type {header.type}") from None
    if prod(header.shape) * dtype.itemsize != len(body):
        raise ValueError(f"its header says {header.shape} of {header.type}, but {len(body)} bytes follow")
    return np.frombuffer(body, dtype).reshape(header.shape, order="F" if header.fortran else "C")
