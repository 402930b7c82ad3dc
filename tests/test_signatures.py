"""The source of a class says what an import says, for every class of Lightning's and torch's that a group takes."""

from __future__ import annotations

import importlib
import inspect

import pytest
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from edgenetllm.nodes import arguments_of, describe
from edgenetllm.section_checks import CALLBACK, LOGGER, MODULE, OPTIMIZER, SCHEDULER
from edgenetllm.signatures import NotThere, read_described
from edgenetllm.trainer_options import TRAINER

FAMILIES = [
    ("lightning.pytorch.callbacks", Callback, CALLBACK),
    ("lightning.pytorch.loggers", Logger, LOGGER),
    ("torch.optim", Optimizer, OPTIMIZER),
    ("torch.optim.lr_scheduler", LRScheduler, SCHEDULER),
]
OWN = [
    ("lightning.Trainer", TRAINER),
    ("edgenetllm.models.module.AdaptationModule", MODULE),
    ("edgenetllm.specialisation.module.SpecialisationModule", MODULE),
    *((f"edgenetllm.models.{name}", CALLBACK) for name in ("checkpoint.BestCheckpoint", "checkpoint.LastCheckpoint")),
    *((f"edgenetllm.models.{name}", CALLBACK) for name in ("patience.Patience", "progress.FitProgress")),
    ("edgenetllm.pruning.callback.OneShotPruning", CALLBACK),
    ("edgenetllm.edge.callback.ExportBundle", CALLBACK),
    ("edgenetllm.models.schedule.WarmupCosine", SCHEDULER),
]


def named(module: str, family: type) -> list[str]:
    owner = importlib.import_module(module)
    return [name for name, one in vars(owner).items() if inspect.isclass(one) and issubclass(one, family)]


@pytest.mark.parametrize(("module", "family", "base"), FAMILIES)
def test_the_source_says_what_an_import_says(module, family, base):
    names = named(module, family)
    assert len(names) > 5
    for name in names:
        compare(f"{module}.{name}", base)


@pytest.mark.parametrize(("target", "base"), OWN)
def test_the_classes_of_every_run_are_read_in_their_source(target, base):
    assert read_described(target) is not None
    compare(target, base)


def compare(target: str, base: str) -> None:
    """Arguments, those that are required, and the kind of class; where the source leaves it open there is nothing."""
    described = read_described(target)
    module, _, name = target.rpartition(".")
    loaded = getattr(importlib.import_module(module), name)
    if described is None:
        described = describe(target)
        assert described is not None
    expected = arguments_of(loaded)
    assert (described.arguments.names, described.arguments.required) == (expected.names, expected.required), target
    assert described.arguments.open == expected.open, target
    assert base in described.bases
    assert next(iter(described.bases)) == described.name or read_described(target) is None


def test_most_classes_are_read_in_their_source():
    """An import is for the few whose source leaves open what they are."""
    targets = [f"{module}.{name}" for module, family, _ in FAMILIES for name in named(module, family)]
    read = [target for target in targets if read_described(target) is not None]
    assert len(read) > 0.8 * len(targets), set(targets) - set(read)


def test_types_are_read_where_they_are_plain():
    trainer = read_described("lightning.Trainer")
    assert trainer is not None
    assert {"max_steps", "log_every_n_steps", "detect_anomaly", "limit_val_batches"} <= set(trainer.arguments.types)
    assert "profiler" not in trainer.arguments.types  # a name, or an object


def test_a_name_that_is_not_there_is_known_without_an_import():
    with pytest.raises(NotThere, match=r"lightning\.pytorch\.callbacks has no Timr"):
        read_described("lightning.pytorch.callbacks.Timr")
    assert read_described("no_such_package.Class") is None


def test_what_only_an_import_can_tell_is_left_to_it(tmp_path, monkeypatch):
    (tmp_path / "open_lab.py").write_text(
        "import functools\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Data:\n    number: int\n"
        "class Made(type('Base', (), {})): pass\n"
        "class Plain:\n    def __init__(self, number: int, *, name='x', **more): pass\n"
        "Plain2 = functools.partial(Plain, 1)\n"
        "if functools:\n    class Twice: pass\nelse:\n    class Twice: pass\n"
    )
    (tmp_path / "any_lab.py").write_text("def __getattr__(name): return int\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("open_lab.Data", "open_lab.Made", "open_lab.Plain2", "open_lab.Twice", "any_lab.Anything"):
        assert read_described(name) is None, name
    plain = read_described("open_lab.Plain")
    assert plain is not None
    assert (plain.arguments.names, plain.arguments.required, plain.arguments.open) == (
        ["number", "name"],
        ["number"],
        True,
    )
    data = describe("open_lab.Data")
    assert data is not None
    assert data.arguments.required == ["number"]
