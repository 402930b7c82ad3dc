"""Files of a bundle compressed by zstd: Python's own from 3.14 on, before that the package backports.zstd."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError

Compression = Literal["none", "zstd"]
ENDING = ".zst"
LEVEL = 3  # the highest, 19, saves no more than 0.1 % and takes 150 times as long
# A file may unpack to this many times its size and so many bytes more: nothing that a bundle stores is smaller.
RATIO, ALLOWANCE = 200, 1 << 20


def check_installed(compress: Compression, where: str = "") -> None:
    """Raises UserError where this Python cannot compress as asked."""
    if compress == "zstd":
        _zstd(where)


def pack(data: bytes, where: str) -> bytes:
    """Compress a file. Raises UserError where `unpack` would refuse the result."""
    packed: bytes = _zstd().compress(data, LEVEL)
    _check_ratio(len(packed), len(data), f"{where}: export.compression=zstd")
    return packed


def unpack(data: npt.NDArray[np.uint8], size: int, where: str) -> npt.NDArray[np.uint8]:
    """The `size` bytes that an untrusted file holds. Raises UserError for any other number of them and for damage.

    No more than `size` bytes are unpacked, and those only where the file is long enough to justify them.
    """
    zstd = _zstd(f"{where}: ")
    _check_ratio(len(data), size, where)
    window = min(27, max(10, size.bit_length()))
    try:
        decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window})
        unpacked: bytes = decompressor.decompress(data, max_length=size + 1)
    except (zstd.ZstdError, ValueError) as error:
        raise UserError(f"{where}: not a zstd file: {error!s:.200}") from None
    if len(unpacked) != size or not decompressor.eof or decompressor.unused_data:
        raise UserError(f"{where}: does not unpack to the {size} bytes that the manifest says")
    return np.frombuffer(unpacked, np.uint8)


def _check_ratio(packed: int, size: int, where: str) -> None:
    if size > RATIO * packed + ALLOWANCE:
        raise UserError(f"{where}: {packed} bytes that unpack to {size} are not accepted; type export.compression=none")


def _zstd(where: str = "") -> Any:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"{where}zstd needs the package backports.zstd: pip install 'edgenetllm[zstd]', or write the bundle with "
            "export.compression=none"
        ) from None
