"""`manifest.json` of a bundle: its fields, and how the text of an untrusted one is checked."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from edgenetllm.edge.encoding import BITS, INTEGERS, Form
from edgenetllm.errors import UserError

FORMAT = 2
EARLIER = 1  # format 1 had no integers, no masks but bitmask, and nothing compressed
DENSE_TYPES = ("F32", "F16", "BF16", "I64", "I32", "U8", "BOOL")

Count = Annotated[int, Field(ge=0, le=1 << 62)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[
    str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*\.safetensors(\.zst)?$", max_length=64)
]  # no path can be spelt
TensorName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=512)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class FileEntry(_Strict):
    """A file of the bundle: its SHA-256 and its size in bytes, and of a compressed one (.zst) the size unpacked."""

    sha256: Digest
    bytes: Count
    unpacked: Count | None = None


class TensorEntry(_Strict):
    """A tensor: `dtype` is that of its values on disk, in the words of safetensors (F32, F16, BF16, I64, ...).

    A sparse one, whatever its zeros, has a `mask`; quantised it has the type I8 or I4, a scale for each `group` of columns,
    and is stored as (out, in): `transposed` says that its `shape`, that of the policy's tensor, is (in, out).
    """

    file: FileName
    kind: Literal["sparse", "dense"]
    dtype: Annotated[str, Field(max_length=16)]
    shape: Annotated[list[Annotated[int, Field(ge=1, le=1 << 40)]], Field(max_length=8)]
    mask: Literal["bitmask", "delta", "none"] = "none"
    group: Annotated[int, Field(ge=1, le=1 << 40)] | None = None
    transposed: bool = False

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

    @model_validator(mode="after")
    def _possible(self) -> TensorEntry:
        quantised = self.kind == "sparse" and self.dtype in INTEGERS
        if self.dtype not in (DENSE_TYPES if self.kind == "dense" else BITS):
            raise ValueError(f"no bundle stores a {self.kind} tensor with dtype {self.dtype}")
        if self.kind == "dense" and self.mask != "none":
            raise ValueError("a dense tensor has no mask")
        if quantised != (self.group is not None) or (self.transposed and not quantised):
            raise ValueError("group and transposed belong to quantised matrices, which have a group")
        if self.group is not None and (len(self.shape) != 2 or self.shape_out_in[1] % self.group):
            raise ValueError(f"groups of {self.group} columns do not fit the shape {self.shape}")
        return self


class LayerSparsity(_Strict):
    """Exact counts of one sparse tensor."""

    zeros: Count
    numel: Count


class Manifest(_Strict):
    """The description of a bundle that lies in it. `digest` is the SHA-256 of all the other fields."""

    format: Literal[2]
    task: str
    model: dict[str, JsonValue]  # the backbone's configuration and whatever is needed to rebuild the policy
    metrics: dict[str, JsonValue]  # of the dense parent
    extra: dict[str, JsonValue]  # the caller's own
    sparsity: dict[TensorName, LayerSparsity]
    tensors: dict[TensorName, TensorEntry]
    files: dict[FileName, FileEntry]
    digest: str = ""

    @model_validator(mode="after")
    def _agrees(self) -> Manifest:
        sparse = {name for name, entry in self.tensors.items() if entry.kind == "sparse"}
        if sparse != set(self.sparsity):
            raise ValueError(f"sparsity and tensors name different layers: {sorted(sparse ^ set(self.sparsity))[:3]}")
        for name, counts in self.sparsity.items():
            if counts.numel != self.tensors[name].numel or counts.zeros > counts.numel:
                raise ValueError(f"sparsity of {name} does not fit its shape {self.tensors[name].shape}")
        used = {entry.file for entry in self.tensors.values()}
        if used != set(self.files):
            raise ValueError(f"files and tensors name different files: {sorted(used ^ set(self.files))[:3]}")
        for name, entry in self.files.items():
            if name.endswith(".zst") != (entry.unpacked is not None):
                raise ValueError(f"{name}: a .zst file, and no other, has a size unpacked")
        return self


def to_bytes(manifest: Manifest) -> bytes:
    """The one text of a manifest, with its digest filled in. Raises UserError for NaN or infinity in it."""
    return _sealed(manifest.model_dump(mode="json"))


def from_bytes(data: bytes, where: str) -> Manifest:
    """Parse and check an untrusted manifest. Raises UserError beginning with `where`, never anything else.

    The text must be the one that `to_bytes` writes, so that any change, even of a space, is noticed. That guards
    against accidents: someone who changes a bundle on purpose can compute a new digest, and then meets the other checks.
    Of an earlier bundle, the manifest in the present format is returned.
    """
    try:
        fields = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        number = fields.get("format") if isinstance(fields, dict) else None
        if type(number) is not int or number not in (EARLIER, FORMAT):
            raise UserError(f"{where}: bundle format {number!r:.40}, this version reads {EARLIER} and {FORMAT}")
        if _sealed(fields) != data:
            raise UserError(f"{where}: damaged or edited (its digest differs)")
        manifest = Manifest.model_validate(_current(fields) if number == EARLIER else fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, first["loc"])) or "manifest"
        raise UserError(f"{where}: {at[:200]}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not a manifest: {error!s:.200}") from None
    return manifest


def _sealed(fields: dict[str, Any]) -> bytes:
    """The text of a manifest with its digest."""
    fields = {name: value for name, value in fields.items() if name != "digest"}
    return _text({**fields, "digest": hashlib.sha256(_text(fields)).hexdigest()})


def _current(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of format 1 as this format has them: every sparse tensor had a bitmask."""
    tensors = fields.get("tensors")
    if not isinstance(tensors, dict) or not all(isinstance(entry, dict) for entry in tensors.values()):
        raise ValueError("tensors are no objects")
    masks = {name: "bitmask" if entry.get("kind") == "sparse" else "none" for name, entry in tensors.items()}
    return {
        **fields,
        "format": FORMAT,
        "tensors": {name: {**entry, "mask": masks[name]} for name, entry in tensors.items()},
    }


def _text(fields: dict[str, object]) -> bytes:
    try:
        return (json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()
    except ValueError as error:
        raise UserError(f"manifest of a bundle: {error}") from None


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
