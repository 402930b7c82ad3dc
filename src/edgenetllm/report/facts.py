"""The parts of `results.json` that stages write as plain mappings: the entries that a table or a page reads of them, checked.

Other entries may stand next to these, and are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from edgenetllm.plain_files import first_mistake
from edgenetllm.report.bootstrap import Estimate, Figure, Retention

Bytes = Annotated[float, Field(gt=0, le=1e18)]
Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(max_length=1000)]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class LayerFigures(BaseModel):
    """One entry of `pruning["layers"]`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    zeros: Count
    weights: Annotated[int, Field(ge=1)]
    error: Figure | None = None
    cosine: Figure | None = None

    @model_validator(mode="after")
    def _counts(self) -> Self:
        if self.zeros > self.weights:
            raise ValueError(f"{self.zeros} zeros of {self.weights} weights")
        return self


class _Pruning(_Open):
    method: Text | None = None
    label: Text | None = None
    lora: Text | None = None
    layers: dict[Text, LayerFigures] = {}


class _Recovery(_Open):
    method: Text
    label: Text | None = None
    trained_parameters: Figure | None = None
    seconds: Figure | None = None
    peak_memory_mb: Figure | None = None


class _Link(_Open):
    seconds: dict[Text, Annotated[float, Field(ge=0)] | None]


class _Bundle(_Open):
    bytes: Bytes
    dense_fp32_bytes: Bytes
    dense_fp16_bytes: Bytes
    dense_int8_bytes: Bytes
    values: Text
    bits_per_weight: Figure | None = None
    group: Count | None = None
    forms: dict[Text, Bytes] | None = None
    smallest: Text | None = None
    shipping: dict[Text, _Link] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.forms is not None and "dense int8" not in self.forms:
            raise ValueError("forms has no dense int8")
        for link, one in (self.shipping or {}).items():
            needed = ("bundle", "dense fp16", "dense int8", "dense int4", self.smallest)
            if one.seconds and not set(needed) <= set(one.seconds):
                raise ValueError(f"shipping.{link:.60}.seconds lacks one of {', '.join(map(str, needed))}")
        if self.shipping and self.smallest is None:
            raise ValueError("smallest is missing")
        return self


class _Domain(_Open):
    data: Text
    metric: Text
    after: Estimate
    before: Estimate | None
    difference: Estimate | None
    control: Estimate | None
    cloud: Estimate | None = None
    of_cloud: Retention | None = None
    of_cloud_gain: Retention | None = None


class _Control(_Open):
    steps: Count
    seconds: Figure
    validation: tuple[Figure, Figure]


class _Cloud(_Open):
    seconds: Figure
    time_fraction: Figure
    bytes_fraction: Figure
    bundle_bytes: Bytes


class _Specialisation(_Open):
    train: list[Text]
    scratch: bool
    trained_parameters: Count
    episodes: Count
    decisions: Count
    steps: Count
    best_step: Count
    seconds: Figure
    peak_memory_mb: Figure
    cached_activations: bool
    validation: tuple[Figure, Figure]
    bytes_up: Count
    experience_bytes: Count
    bytes_down: Count
    bytes_down_tensors: Count
    bytes_down_compressed: Count
    bundle_bytes: Bytes
    control: _Control | None
    cloud: _Cloud | None
    domains: dict[Text, _Domain | None]

    @model_validator(mode="after")
    def _compared(self) -> Self:
        new = self.domains.get("new")
        if self.cloud is not None and (new is None or new.cloud is None):
            raise ValueError("domains.new.cloud is missing, with which the cloud is compared")
        return self


class _Replay(_Open):
    speed: Annotated[float, Field(gt=0, le=1e6)]


class _Faults(_Open):
    kind: Text
    rate: Annotated[float, Field(ge=0, le=1)]


def _checked(model: type[_Open]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A validator that checks a mapping by a model and leaves it as it is."""

    def check(value: dict[str, Any]) -> dict[str, Any]:
        try:
            model.model_validate(value)
        except ValidationError as error:
            raise ValueError(first_mistake(error)) from None
        return value

    return check


Facts = dict[str, JsonValue]
PruningFacts = Annotated[Facts, AfterValidator(_checked(_Pruning))]
RecoveryFacts = Annotated[Facts, AfterValidator(_checked(_Recovery))]
BundleFacts = Annotated[Facts, AfterValidator(_checked(_Bundle))]
SpecialisationFacts = Annotated[Facts, AfterValidator(_checked(_Specialisation))]
ReplayFacts = Annotated[Facts, AfterValidator(_checked(_Replay))]
FaultFacts = Annotated[Facts, AfterValidator(_checked(_Faults))]
