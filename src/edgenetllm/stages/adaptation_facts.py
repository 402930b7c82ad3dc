"""`adaptation.json` as it is stored: what an adaptation is, and where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from edgenetllm.plain_files import read_document

FACTS_FILE = "adaptation.json"  # where the adaptation lies, and the return-to-go that validation chose


class _Facts(BaseModel):
    """The entries of `adaptation.json` that a stage reads; others are left as they are."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    target_return: float | dict[str, float]
    tried: Any = None
    backbone: dict[str, str | int | None]
    bf16: bool
    epochs: int | None = None
    identity: dict[str, JsonValue] | None = None
    expert: dict[str, str] = {}
    improved: dict[str, str] = {}  # the same in runs of earlier versions
    adapted_in: Annotated[str, Field(pattern=r"^[^\x00]{1,4096}$")]
    sha256: str | None = None


def stored_facts(path: Path) -> dict[str, Any]:
    """All that stands in `adaptation.json`, checked. Raises UserError, naming it, for a damaged one."""
    return read_document(path, _Facts)
