"""The bytes that a device with bundle A has to receive to have bundle B: `python -m edgenetllm.edge.diff A B`.

Both are read and checked as any bundle. Files are equal where their hashes are; tensors where everything that is stored of
them is, byte by byte. No torch is needed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgenetllm import console
from edgenetllm.edge.bundle import MANIFEST, read_bundle, read_file
from edgenetllm.edge.tensors_file import Stored, file_bytes, file_tensors
from edgenetllm.printable import say

Change = Literal["same", "changed", "added", "removed"]
TRAVELS = ("changed", "added")


@dataclass(frozen=True)
class Item:
    """A file or a tensor: `bytes` are those that B stores of it, or A where it is removed."""

    name: str
    change: Change
    bytes: int


@dataclass(frozen=True)
class Difference:
    """The difference of two bundles, and the bytes that travel.

    `travel_files` are the files of B that differ, manifest included; `travel_tensors` a file of only the tensors that differ,
    and the manifest; `travel_compressed` the same two compressed by zlib.
    """

    files: list[Item]
    tensors: list[Item]
    bundle_bytes: int  # all of B
    travel_files: int
    travel_tensors: int
    travel_compressed: int


def compare(a: Path | str, b: Path | str) -> Difference:
    """The difference between two bundle folders. Raises UserError, like `read_bundle`, where one of them is none."""
    before, after = (_Contents.of(Path(folder)) for folder in (a, b))
    files = _items(before.files, after.files, before.file_bytes, after.file_bytes)
    tensors = _items(before.tensors, after.tensors, before.tensor_bytes, after.tensor_bytes)
    travelling = [item.name for item in tensors if item.change in TRAVELS]
    parts = {part: stored for name in travelling for part, stored in after.parts[name].items()}
    changed = file_bytes(parts) if parts else b""
    manifest = b"" if before.manifest == after.manifest else after.manifest
    return Difference(
        files=files,
        tensors=tensors,
        bundle_bytes=sum(after.file_bytes.values()),
        travel_files=sum(item.bytes for item in files if item.change in TRAVELS),
        travel_tensors=len(changed) + len(manifest),
        travel_compressed=sum(len(zlib.compress(data, 9)) for data in (changed, manifest) if data),
    )


@dataclass(frozen=True)
class _Contents:
    """One bundle: what its files and tensors are compared by, and the bytes of each."""

    manifest: bytes
    files: Mapping[str, Any]
    file_bytes: Mapping[str, int]
    parts: Mapping[str, Mapping[str, Stored]]  # by tensor
    tensors: Mapping[str, Any]
    tensor_bytes: Mapping[str, int]

    @classmethod
    def of(cls, folder: Path) -> _Contents:
        # Names, sizes, hashes and shapes are checked here; values, which are only compared, are not unpacked.
        manifest = read_bundle(folder, lazily=True).manifest
        text = (folder / MANIFEST).read_bytes()
        stored = {
            part: array
            for file, entry in manifest.files.items()
            for part, array in file_tensors(read_file(folder / file, entry), str(folder / file)).items()
        }
        parts: dict[str, dict[str, Stored]] = {
            name: dict(_parts_of(name, entry.kind, stored)) for name, entry in manifest.tensors.items()
        }
        return cls(
            manifest=text,
            files={**{name: entry.sha256 for name, entry in manifest.files.items()}, MANIFEST: text},
            file_bytes={**{name: entry.bytes for name, entry in manifest.files.items()}, MANIFEST: len(text)},
            parts=parts,
            tensors={
                name: (asdict(entry) | {"file": None}, {part: _digest(one) for part, one in parts[name].items()})
                for name, entry in manifest.tensors.items()
            },
            tensor_bytes={name: sum(array.nbytes for _, array in one.values()) for name, one in parts.items()},
        )


def _parts_of(name: str, kind: str, stored: Mapping[str, Stored]) -> list[tuple[str, Stored]]:
    """The stored parts of a tensor: itself, or mask, scales and values of a sparse one."""
    names = [name] if kind == "dense" else [f"{name}.{part}" for part in ("mask", "deltas", "scales", "values")]
    return [(one, stored[one]) for one in names if one in stored]


def _digest(stored: Stored) -> tuple[str, tuple[int, ...], str]:
    dtype, array = stored
    return dtype, array.shape, hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _items(
    before: Mapping[str, Any], after: Mapping[str, Any], bytes_before: Mapping[str, int], bytes_after: Mapping[str, int]
) -> list[Item]:
    """Each name of A or B with what became of it, those that differ first."""
    items = []
    for name in sorted({*before, *after}):
        if name not in after:
            items.append(Item(name, "removed", bytes_before[name]))
            continue
        change: Change = "added" if name not in before else "same" if before[name] == after[name] else "changed"
        items.append(Item(name, change, bytes_after[name]))
    return sorted(items, key=lambda item: item.change == "same")


def lines(difference: Difference, every: bool = False) -> list[str]:
    """The report, a line each; of the tensors those that differ, or `every` one."""
    shown = [item for item in difference.tensors if every or item.change != "same"]
    same = sum(item.change == "same" for item in difference.tensors)
    rows = [f"{item.change:<8} {item.bytes:>12,}  {item.name}" for item in difference.files]
    rows += [f"tensors: {len(difference.tensors) - same} differ, {same} are the same"]
    rows += [f"{item.change:<8} {item.bytes:>12,}  {item.name}" for item in shown]
    whole = difference.bundle_bytes
    for what, size in (
        ("the files that differ", difference.travel_files),
        ("only the tensors that differ, and the manifest", difference.travel_tensors),
        ("the same, compressed", difference.travel_compressed),
    ):
        rows.append(f"to send, {what}: {size:,} bytes ({size / whole:.2%} of the bundle's {whole:,})")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m edgenetllm.edge.diff",
        description="Compare two bundles: which files and tensors differ, and how many bytes a device with A needs for B.",
    )
    parser.add_argument("a", type=Path, metavar="A", help="the folder of a bundle, which the device has")
    parser.add_argument("b", type=Path, metavar="B", help="the folder of the bundle that it is to have")
    parser.add_argument("--all", action="store_true", help="also list the tensors that are the same")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(arguments)
    difference = compare(options.a, options.b)
    if options.json:
        say(*json.dumps(asdict(difference), indent=1).split("\n"))
    else:
        say(*lines(difference, options.all))


if __name__ == "__main__":
    console.program(lambda: console.with_exit_code(main)())
