"""JSON files with a schema: strict fields, no NaN, written whole, and refused with the name of the field that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgenetllm.errors import UserError
from edgenetllm.files import write_json
from edgenetllm.plain_files import first_mistake, read_json

SCHEMA = 1


class Strict(BaseModel):
    """Fields of a document: no other ones, finite numbers, not to be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class Document(Strict):
    """A file of its own. A subclass says what it is called in errors (`KIND`) and who leaves it (`LEFT_BY`)."""

    KIND: ClassVar[str]
    LEFT_BY: ClassVar[str]

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1

    def save(self, path: Path | str) -> None:
        """Write the file atomically. Raises ValueError for fields that `load` would refuse, changed by `model_copy`, say."""
        fields = self.model_dump(mode="json", by_alias=True)
        self.model_validate(fields)
        write_json(path, fields)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read the file. Raises UserError naming it, and the field that is wrong."""
        path = Path(path)
        if not path.exists():
            raise UserError(f"{path}: No such file or directory; {cls.LEFT_BY} leaves this file")
        fields = read_json(path)
        if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
            schema = fields.get("schema") if isinstance(fields, dict) else None
            raise UserError(f"{path}: {cls.KIND} of schema {schema!r:.40}, this version reads {SCHEMA}")
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise UserError(f"{path}: {first_mistake(error)}") from None
