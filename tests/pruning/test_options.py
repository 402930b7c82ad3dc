"""Options of methods and recoveries, whatever kind of class has them: distinct in labels, written into results."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from edgenetllm.errors import UserError
from edgenetllm.pruning.magnitude import Magnitude
from edgenetllm.pruning.method import Method, non_default_options, option_values
from edgenetllm.pruning.options import Pruning
from edgenetllm.pruning.recovery.specialise import Specialise
from edgenetllm.pruning.sparsegpt import SparseGpt


@checked
class Checked(Method):
    strength: float = 1.0
    steps: list[int] = Field(default_factory=lambda: [1, 2])
    name: ClassVar[str] = "mine"


@dataclasses.dataclass
class Standard(Method):
    strength: float = 1.0
    steps: list[int] = dataclasses.field(default_factory=lambda: [1, 2])
    seen: int = dataclasses.field(default=0, init=False)
    name: ClassVar[str] = "mine"


class Plain(Method):
    name: ClassVar[str] = "mine"

    def __init__(self, strength: float = 1.0, *, steps: tuple[int, ...] = (1, 2)) -> None:
        self.strength, self.steps = strength, list(steps)


class Child(Plain):
    """Takes what its parent takes."""


class Bare(Method):
    name: ClassVar[str] = "mine"


@pytest.mark.parametrize("kind", [Checked, Standard, Plain, Child])
def test_labels_and_results_tell_the_options_of_any_class(kind):
    assert kind().label == "mine"
    assert Pruning(kind(strength=2.0)).label == "mine strength=2.0"
    assert kind(steps=[1, 2]).label == "mine"
    assert kind(steps=[3]).label == "mine steps=[3]"
    assert option_values(kind(strength=2.0)) == {"strength": 2.0, "steps": [1, 2]}
    json.dumps(option_values(kind()))


def test_a_class_without_options_has_none():
    assert option_values(Bare()) == {}
    assert Bare().label == "mine"


def test_an_option_without_a_default_is_always_named():
    class Needs(Method):
        name = "mine"

        def __init__(self, strength: float) -> None:
            self.strength = strength

    assert Needs(1.0).label == "mine strength=1.0"


def test_an_option_that_cannot_be_found_says_what_to_write():
    class Hidden(Method):
        name = "mine"

        def __init__(self, strength: float = 1.0) -> None:
            self._power = strength

    with pytest.raises(UserError, match=r"Hidden\.__init__ takes strength.*write self\.strength = strength.*dataclass"):
        _ = Hidden().label

    class Open(Method):
        name = "mine"

        def __init__(self, **options: float) -> None:
            self.options = options

    with pytest.raises(UserError, match=r"Open\.__init__ takes \*args or \*\*kwargs"):
        option_values(Open(strength=1.0))


def test_options_have_a_plain_form_or_are_refused():
    class Colour(enum.Enum):
        RED = "red"

    @dataclasses.dataclass
    class Inner:
        rate: float = 0.5

    @dataclasses.dataclass
    class Outer(Method):
        inner: Inner
        colour: Colour
        file: Path
        score: object
        table: dict[str, tuple[int, ...]]
        name: ClassVar[str] = "mine"

    method = Outer(Inner(0.25), Colour.RED, Path("a/b"), math.sqrt, {"x": (1, 2)})
    assert option_values(method) == {
        "inner": {"class": Inner.__qualname__, "rate": 0.25},
        "colour": "red",
        "file": "a/b",
        "score": "math.sqrt",
        "table": {"x": [1, 2]},
    }
    method.score = object()
    with pytest.raises(UserError, match=r"score is a object, which results cannot write down"):
        option_values(method)


def test_the_methods_and_recoveries_here():
    assert option_values(Magnitude(scope="row")) == {"scope": "row"}
    assert option_values(SparseGpt(block=32)) == {"block": 32, "damping": 0.01}
    assert non_default_options(Specialise(steps=3)) == ["steps=3"]
    assert non_default_options(Pruning(Magnitude(), windows=3, spread=0.1), "windows") == ["windows=3"]
