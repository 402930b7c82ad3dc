"""The options of `pruning=`: a method, and how, where and on what data it is used."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, InstanceOf, WithJsonSchema
from pydantic.dataclasses import dataclass

from edgenetllm.affects import OfCommand
from edgenetllm.option_types import NUMBER, Count, ExistingFile
from edgenetllm.pruning.allocation import Allocation
from edgenetllm.pruning.masks import Pattern
from edgenetllm.pruning.method import Method, non_default_options


def _structure(value: str) -> str:
    match = re.fullmatch(r"(\d+):(\d+)", value)
    if value != "unstructured" and (match is None or not 0 < int(match[1]) < int(match[2])):
        raise ValueError("give unstructured, or N:M with 0 < N < M, such as 2:4")
    return value


Structure = Annotated[
    str,
    AfterValidator(_structure),
    WithJsonSchema({"type": "string", "pattern": r"^(unstructured|[1-9]\d*:[1-9]\d*)$"}),
]


@dataclass(config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Pruning:
    """Options of every `pruning=` choice."""

    method: InstanceOf[Method]
    structure: Structure = "unstructured"  # or N:M, such as 2:4: N of M neighbours along the inputs stay
    allocation: Allocation = "uniform"  # of the zeros over the layers
    spread: Annotated[float, Field(ge=0, lt=0.5), NUMBER] = (
        0.08  # owl, sensitivity: half the span of the blocks' sparsities
    )
    calibration: Literal["pool", "text"] = "pool"
    windows: Count = 64  # calibration sequences
    text: ExistingFile | None = None  # calibration=text: a file; None: Python's own documentation
    text_length: Count = 512  # tokens of a text window
    lora: Literal["merge_then_prune", "prune_base_keep_adapter"] = "merge_then_prune"
    also: list[Literal["encoder", "head"]] = Field(default_factory=list)  # pruned too, by magnitude
    force: Annotated[bool, OfCommand()] = False  # prune a pruned run further

    @property
    def pattern(self) -> Pattern | None:
        if self.structure == "unstructured":
            return None
        kept, group = self.structure.split(":")
        return Pattern(int(kept), int(group))

    @property
    def label(self) -> str:
        """The name of this choice in a table: the method, and the options that are not the default."""
        words = [
            self.method.label,
            self.structure if self.pattern else "",
            self.allocation if self.allocation != "uniform" else "",
            "on text" if self.calibration == "text" else "",
            "with adapter" if self.lora == "prune_base_keep_adapter" else "",
            f"and {' and '.join(self.also)}" if self.also else "",
            *non_default_options(self, "spread", "windows", "text", "text_length"),
        ]
        return " ".join(word for word in words if word)
