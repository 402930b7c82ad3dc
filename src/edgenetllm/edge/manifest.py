"""`manifest.json` of a bundle: its fields, and how the text of an untrusted one is checked."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from edgenetllm.errors import UserError

FORMAT = 1

Count = Annotated[int, Field(ge=0, le=1 << 62)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*\.safetensors$", max_length=64)]  # no path can be spelt
TensorName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=512)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class FileEntry(_Strict):
    """A file of the bundle: its SHA-256 and its size in bytes."""

    sha256: Digest
    bytes: Count


class TensorEntry(_Strict):
    """A tensor: `dtype` is that of its values on disk, in the words of safetensors (F32, F16, BF16, I64, ...)."""

    file: FileName
    kind: Literal["sparse", "dense"]
    dtype: Annotated[str, Field(max_length=16)]
    shape: Annotated[list[Annotated[int, Field(ge=1, le=1 << 40)]], Field(max_length=8)]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class LayerSparsity(_Strict):
    """Exact counts of one sparse tensor."""

    zeros: Count
    numel: Count


class Manifest(_Strict):
    """The description of a bundle that lies in it. `digest` is the SHA-256 of all the other fields."""

    format: Literal[1]
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
        return self


def to_bytes(manifest: Manifest) -> bytes:
    """The one text of a manifest, with its digest filled in. Raises UserError for NaN or infinity in it."""
    fields = manifest.model_dump(mode="json", exclude={"digest"})
    return _text({**fields, "digest": hashlib.sha256(_text(fields)).hexdigest()})


def from_bytes(data: bytes, where: str) -> Manifest:
    """Parse and check an untrusted manifest. Raises UserError beginning with `where`, never anything else.

    The text must be the one that `to_bytes` writes, so that any change, even of a space, is noticed. That guards
    against accidents: someone who changes a bundle on purpose can compute a new digest, and then meets the other checks.
    """
    try:
        fields = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        if isinstance(fields, dict) and fields.get("format") != FORMAT:
            raise UserError(f"{where}: bundle format {fields.get('format')!r:.40}, this version reads {FORMAT}")
        manifest = Manifest.model_validate(fields)
        if to_bytes(manifest) != data:
            raise UserError(f"{where}: damaged or edited (its digest differs)")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        at = ".".join(map(str, first["loc"])) or "manifest"
        raise UserError(f"{where}: {at[:200]}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not a manifest: {error!s:.200}") from None
    return manifest


def _text(fields: dict[str, object]) -> bytes:
    try:
        return (json.dumps(fields, indent=1, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()
    except ValueError as error:
        raise UserError(f"manifest of a bundle: {error}") from None


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
