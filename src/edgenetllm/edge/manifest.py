"""`manifest.json` of a bundle: its fields, and how the text of an untrusted one is checked.

Plain dataclasses that check themselves: a validator would be the largest package that a cold start on the edge imports
besides numba.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar

from edgenetllm.edge.encoding import BITS, INTEGERS, Form
from edgenetllm.errors import UserError

FORMAT = 2
EARLIER = 1  # format 1 had no integers, no masks but bitmask, and nothing compressed
DENSE_TYPES = ("F32", "F16", "BF16", "I64", "I32", "U8", "BOOL")
MOST = 1 << 62  # of any count
LONGEST = 1 << 40  # dimension
MOST_DIMENSIONS = 8
MOST_VALUES = 1 << 18  # in the whole manifest, which has about ten for each tensor
DEEPEST = 32  # objects and lists in each other

DIGEST = re.compile(r"[0-9a-f]{64}")
FILE_NAME = re.compile(r"(?=.{1,64}$)[a-z0-9][a-z0-9_-]*\.safetensors(\.zst)?")  # no path can be spelt
TENSOR_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,511}")

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: its SHA-256 and its size in bytes, and of a compressed one (.zst) the size unpacked.

    Raises ValueError, as all of these classes do, for fields that cannot be.
    """

    sha256: str
    bytes: int
    unpacked: int | None = None

    def __post_init__(self) -> None:
        _require(_matches(DIGEST, self.sha256), "sha256: not 64 hexadecimal digits")
        _require(_is_count(self.bytes), "bytes: not a size")
        _require(self.unpacked is None or _is_count(self.unpacked), "unpacked: not a size")


@dataclass(frozen=True)
class TensorEntry:
    """A tensor: `dtype` is that of its values on disk, in the words of safetensors (F32, F16, BF16, I64, ...).

    A sparse one, whatever its zeros, has a `mask`; quantised it has the type I8 or I4, a scale for each `group` of columns,
    and is stored as (out, in): `transposed` says that its `shape`, that of the policy's tensor, is (in, out).
    """

    file: str
    kind: Literal["sparse", "dense"]
    dtype: str
    shape: list[int]
    mask: Literal["bitmask", "delta", "none"] = "none"
    group: int | None = None
    transposed: bool = False

    def __post_init__(self) -> None:
        # Each field alone.
        _require(_matches(FILE_NAME, self.file), "file: not the name of a file of tensors")
        _require(_is_one_of(self.kind, ("sparse", "dense")), "kind: neither sparse nor dense")
        _require(isinstance(self.dtype, str), "dtype: not a text")
        dimensions = isinstance(self.shape, list) and len(self.shape) <= MOST_DIMENSIONS
        _require(dimensions and all(_is_count(size, 1, LONGEST) for size in self.shape), "shape: not a list of sizes")
        _require(_is_one_of(self.mask, ("bitmask", "delta", "none")), "mask: none of bitmask, delta and none")
        _require(self.group is None or _is_count(self.group, 1, LONGEST), "group: not a number of columns")
        _require(isinstance(self.transposed, bool), "transposed: neither true nor false")
        # How they go together.
        quantised = self.kind == "sparse" and self.dtype in INTEGERS
        if self.dtype not in (DENSE_TYPES if self.kind == "dense" else BITS):
            raise ValueError(f"no bundle stores a {self.kind} tensor with dtype {self.dtype:.16}")
        _require(self.kind == "sparse" or self.mask == "none", "a dense tensor has no mask")
        if quantised != (self.group is not None) or (self.transposed and not quantised):
            raise ValueError("group and transposed belong to quantised matrices, which have a group")
        if self.group is not None and (len(self.shape) != 2 or self.shape_out_in[1] % self.group):
            raise ValueError(f"groups of {self.group} columns do not fit the shape {self.shape}")

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def form(self) -> Form:
        return Form(self.dtype, self.mask, self.group)

    @property
    def shape_out_in(self) -> tuple[int, ...]:
        """The shape in which the tensor is stored."""
        return tuple(reversed(self.shape)) if self.transposed else tuple(self.shape)


@dataclass(frozen=True)
class LayerSparsity:
    """Exact counts of one sparse tensor."""

    zeros: int
    numel: int

    def __post_init__(self) -> None:
        _require(_is_count(self.zeros) and _is_count(self.numel), "zeros and numel: not counts")


@dataclass(frozen=True)
class Manifest:
    """The description of a bundle that lies in it. `digest` is the SHA-256 of all the other fields."""

    format: int
    task: str
    model: dict[str, Any]  # the backbone's configuration and whatever is needed to rebuild the policy
    metrics: dict[str, Any]  # of the dense parent
    extra: dict[str, Any]  # the caller's own
    sparsity: dict[str, LayerSparsity]
    tensors: dict[str, TensorEntry]
    files: dict[str, FileEntry]
    digest: str = field(default="")

    def __post_init__(self) -> None:
        # Each field alone.
        _require(self.format == FORMAT and isinstance(self.task, str), "format or task: not those of a bundle")
        for name in ("model", "metrics", "extra"):
            _require(isinstance(getattr(self, name), dict), f"{name}: not an object")
        for name in (*self.tensors, *self.sparsity):
            _require(_matches(TENSOR_NAME, name), f"tensors: {name!r:.80} is no name of a tensor")
        for name in self.files:
            _require(_matches(FILE_NAME, name), f"files: {name!r:.80} is no name of a file of tensors")
        # How they go together.
        sparse = {name for name, entry in self.tensors.items() if entry.kind == "sparse"}
        if sparse != set(self.sparsity):
            raise ValueError(f"sparsity and tensors name different layers: {sorted(sparse ^ set(self.sparsity))[:3]}")
        for name, counts in self.sparsity.items():
            if counts.numel != self.tensors[name].numel or counts.zeros > counts.numel:
                raise ValueError(f"sparsity of {name} does not fit its shape {self.tensors[name].shape}")
        used = {entry.file for entry in self.tensors.values()}
        if used != set(self.files):
            raise ValueError(f"files and tensors name different files: {sorted(used ^ set(self.files))[:3]}")
        for name, file in self.files.items():
            if name.endswith(".zst") != (file.unpacked is not None):
                raise ValueError(f"{name}: a .zst file, and no other, has a size unpacked")


def to_bytes(manifest: Manifest) -> bytes:
    """The one text of a manifest, with its digest filled in. Raises UserError for NaN or infinity in it."""
    return _sealed(asdict(manifest))


def from_bytes(data: bytes, where: str) -> Manifest:
    """Parse and check an untrusted manifest. Raises UserError beginning with `where`, never anything else.

    The text must be the one that `to_bytes` writes, so that any change, even of a space, is noticed. That guards
    against accidents: someone who changes a bundle on purpose can compute a new digest, and then meets the other checks.
    Of an earlier bundle, the manifest in the present format is returned.
    """
    if data.count(b",") > MOST_VALUES:
        raise UserError(f"{where}: more than {MOST_VALUES} values are too many for a manifest")
    try:
        stated = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        _require(_depth(stated) <= DEEPEST, f"objects within more than {DEEPEST} others")
        number = stated.get("format") if isinstance(stated, dict) else None
        if type(number) is not int or number not in (EARLIER, FORMAT):
            raise UserError(f"{where}: bundle format {number!r:.40}, this version reads {EARLIER} and {FORMAT}")
        if _sealed(stated) != data:
            raise UserError(f"{where}: damaged or edited (its digest differs)")
        return _parsed(_current(stated) if number == EARLIER else stated)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not a manifest: {error!s:.200}") from None


def _parsed(stated: dict[str, Any]) -> Manifest:
    """Raises ValueError, naming the field, for anything but the fields of a manifest."""
    kinds: dict[str, type[Any]] = {"sparsity": LayerSparsity, "tensors": TensorEntry, "files": FileEntry}
    entries: dict[str, Any] = {}
    for name, kind in kinds.items():
        given = stated.get(name)
        _require(isinstance(given, dict), f"{name}: not an object")
        entries[name] = {key: _entry(kind, one, f"{name}.{key:.80}") for key, one in given.items()}  # type: ignore[union-attr]
    return _entry(Manifest, stated | entries, "manifest")


def _entry(kind: type[Entry], stated: Any, at: str) -> Entry:
    """The dataclass of an object that has exactly its fields."""
    _require(isinstance(stated, dict), f"{at}: not an object")
    known = {one.name: one.default is MISSING for one in fields(kind)}  # type: ignore[arg-type]
    for name in stated:
        _require(name in known, f"{at}: {name!r:.80} is unknown")
    for name, needed in known.items():
        _require(name in stated or not needed, f"{at}: {name} is missing")
    try:
        return kind(**stated)
    except ValueError as error:
        raise ValueError(f"{at}: {error}") from None


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise ValueError(problem)


def _matches(pattern: re.Pattern[str], text: Any) -> bool:
    return isinstance(text, str) and pattern.fullmatch(text) is not None


def _is_count(value: Any, low: int = 0, high: int = MOST) -> bool:
    return type(value) is int and low <= value <= high


def _is_one_of(value: Any, known: tuple[str, ...]) -> bool:
    return isinstance(value, str) and value in known


def _sealed(stated: dict[str, Any]) -> bytes:
    """The text of a manifest with its digest."""
    stated = {name: value for name, value in stated.items() if name != "digest"}
    return _text({**stated, "digest": hashlib.sha256(_text(stated)).hexdigest()})


def _current(stated: dict[str, Any]) -> dict[str, Any]:
    """The fields of format 1 as this format has them: every sparse tensor had a bitmask."""
    tensors = stated.get("tensors")
    if not isinstance(tensors, dict) or not all(isinstance(entry, dict) for entry in tensors.values()):
        raise ValueError("tensors are no objects")
    masks = {name: "bitmask" if entry.get("kind") == "sparse" else "none" for name, entry in tensors.items()}
    return {
        **stated,
        "format": FORMAT,
        "tensors": {name: {**entry, "mask": masks[name]} for name, entry in tensors.items()},
    }


def _text(fields: dict[str, object]) -> bytes:
    try:
        return (json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()
    except ValueError as error:
        raise UserError(f"manifest of a bundle: {error}") from None


def _depth(value: Any) -> int:
    """Number of objects and lists around the innermost value."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, dict | list)]:
        depth += 1
        level = [inner for one in level for inner in (one.values() if isinstance(one, dict) else one)]
    return depth


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
