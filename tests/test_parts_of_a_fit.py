"""The LightningModule and the callbacks of a run are named by their classes, and can be subclasses in another package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_config import settings
from typed import ABR, call, runs

from edgenetllm.config import load_config
from edgenetllm.errors import UserError
from edgenetllm.stages.identity import adaptation_identity
from edgenetllm.stages.trainer import check_trainer

PARTS = """
from pathlib import Path

from edgenetllm.edge.callback import ExportBundle
from edgenetllm.models.module import AdaptationModule
from edgenetllm.pruning.callback import OneShotPruning


class Scaled(AdaptationModule):
    def __init__(self, *args, scale=1.0, **options):
        super().__init__(*args, **options)
        self.scale = scale

    def loss(self, batch):
        return self.scale * super().loss(batch)


class Noting(OneShotPruning):
    def __init__(self, *args, notes, **options):
        super().__init__(*args, **options)
        self.notes = notes

    def note(self, line):
        with Path(self.notes).open("a") as file:
            file.write(f"{line}\\n")

    def on_fit_end(self, trainer, pl_module):
        self.note(f"the fit ended after {trainer.global_step} steps")
        super().on_fit_end(trainer, pl_module)

    def apply(self, module, batches, *, device=None):
        self.note(f"{type(module).__name__} is pruned")
        return super().apply(module, batches, device=device)


class Named(ExportBundle):
    def write(self, *args, **options):
        self.parent = {**self.parent, "shipped_by": "us"}
        return super().write(*args, **options)
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> str:
    """A package `fitlab` of somebody else's, here and in the commands that are called."""
    folder = tmp_path / "packages" / "fitlab"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(PARTS)
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))
    return "fitlab"


@pytest.mark.slow
def test_module_pruning_and_export_of_another_package_are_used_in_every_stage(tmp_path, package):
    notes = tmp_path / "notes"
    words = [*ABR, "module._target_=fitlab.Scaled", "+module.scale=0.5", "callbacks.pruning._target_=fitlab.Noting",
             f"+callbacks.pruning.notes={notes}", "callbacks.export._target_=fitlab.Named"]  # fmt: skip
    call("train.py", tmp_path, *words)
    assert notes.read_text().splitlines() == ["the fit ended after 16 steps", "Scaled is pruned"]
    (run,) = runs(tmp_path, "train")
    identity = json.loads((run / "abr" / "results.json").read_text())["identity"]
    assert (identity["module._target_"], identity["module.scale"]) == ("fitlab.Scaled", 0.5)
    assert json.loads((run / "bundle" / "manifest.json").read_text())["metrics"]["shipped_by"] == "us"

    notes.unlink()
    output = call("train.py", tmp_path, *words, "sparsity=0.3")
    assert "adaptation: found" in output
    assert notes.read_text().splitlines() == ["PolicyNetwork is pruned"]  # without a fit, once

    refused = call("prune.py", tmp_path, f"run={run}", "sparsity=0.6", "logger=csv", ok=False)
    assert "type trust=[fitlab]" in refused
    notes.unlink()
    call("prune.py", tmp_path, f"run={run}", "sparsity=0.6", "logger=csv", "trust=[fitlab]")
    assert notes.read_text().splitlines() == ["PolicyNetwork is pruned"]


def test_what_is_learnt_with_another_module_is_another_adaptation(package):
    def identity(*words: str) -> dict:
        return adaptation_identity(load_config(settings("experiment=debug", *words)), False)

    plain, scaled = identity(), identity("module._target_=fitlab.Scaled")
    assert plain["code"] != scaled["code"]
    assert identity("module._target_=fitlab.Scaled", "+module.scale=2") != scaled
    pruned = ("callbacks.pruning._target_=fitlab.Noting", "+callbacks.pruning.notes=x")
    assert identity(*pruned) == plain  # what prunes changes no adaptation


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["callbacks.best=null"], "callbacks.best cannot be left out: it is the checkpoint that is pruned"),
        (["callbacks.pruning=null"], "callbacks.pruning cannot be left out: type sparsity=0 for a dense bundle"),
        (["callbacks.early_stopping=null", "callbacks.patience=3"], "callbacks.patience=3 needs callbacks.early_stopping"),
        (["callbacks.best._target_=torch.nn.Linear"], "callbacks.best._target_=torch.nn.Linear is no lightning Callback"),
        (["callbacks.last._target_=edgenetllm.models.checkpoint.LastCheckpont"], "LastCheckpoint?"),
        (["+callbacks.pruning.windows=3"], "callbacks.pruning.windows is given by the run, from other options (pruning=..."),
        (["+callbacks.pruning.sparsity=0.9"], "callbacks.pruning.sparsity is given by the run"),
        (["+callbacks.export.values=fp32"], "callbacks.export.values is given by the run, from other options (export=..."),
        (["module._target_=lightning.LightningModule"], "is no edgenetllm AdaptationModule"),
        (["+module.scale=2"], "module.scale is not a key of the configuration"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be_used_are_refused(words, message):
    with pytest.raises(UserError) as refused:
        check_trainer(load_config(settings("experiment=debug", *words)))
    assert message in str(refused.value)


def test_a_checkpoint_of_another_kind_is_refused_before_the_pool():
    config = load_config(
        settings("experiment=debug", "callbacks.best._target_=lightning.pytorch.callbacks.ModelCheckpoint")
    )
    with pytest.raises(UserError, match=r"callbacks\.best: .*ModelCheckpoint cannot be built"):
        check_trainer(config)


def test_the_progress_bar_is_a_node_or_nothing(tmp_path):
    assert load_config(settings("callbacks.progress_bar=false")).callbacks.progress is False
    assert load_config(settings("callbacks.progress_bar=null")).callbacks.progress is False
    config = load_config(settings("callbacks.progress_bar._target_=lightning.pytorch.callbacks.RichProgressBar"))
    assert config.callbacks.progress is True
    names = [type(one).__name__ for one in trainer_callbacks(config, tmp_path)]
    assert "RichProgressBar" in names


def trainer_callbacks(config, folder: Path):
    from edgenetllm.stages.trainer import build_callbacks

    return build_callbacks(config, folder, is_first_rank=False)
