"""The last checkpoint follows every epoch, the best one only improvements; patience is not forgotten between sittings."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from edgenetllm.errors import UserError
from edgenetllm.models.checkpoint import BestCheckpoint, LastCheckpoint, WholeCheckpoints
from edgenetllm.models.module import check_checkpoint
from edgenetllm.models.patience import Patience

SCORES = [1.0, 3.0, 2.0, 0.5]


class Scripted(L.LightningModule):
    """Validates with known scores."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, index):
        return (self.weight - batch.mean()) ** 2

    def validation_step(self, batch, index):
        self.log("val/score", SCORES[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_last_is_every_epoch_and_best_the_best(tmp_path):
    data = DataLoader(torch.ones(4, 1))
    trainer = L.Trainer(
        max_epochs=len(SCORES),
        callbacks=[BestCheckpoint(tmp_path, "val/score", "max"), LastCheckpoint(tmp_path)],
        logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Scripted(), data, data)
    stored = {name: torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("best", "last")}
    assert stored["best"]["epoch"] == 1
    assert stored["last"]["epoch"] == len(SCORES) - 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    best = next(state for key, state in stored["last"]["callbacks"].items() if "BestCheckpoint" in key)
    assert float(best["best_model_score"]) == 3.0


def test_what_patience_stopped_learns_no_more_when_resumed(tmp_path):
    data = DataLoader(torch.ones(4, 1))

    def fit(start=None) -> L.Trainer:
        trainer = L.Trainer(
            max_epochs=len(SCORES),
            callbacks=[LastCheckpoint(tmp_path), Patience("val/score", patience=1, mode="max")],
            logger=False, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(Scripted(), data, data, ckpt_path=start, weights_only=True)
        return trainer

    assert fit().global_step == 12  # three epochs: the third is worse than the second
    assert fit(str(tmp_path / "last.ckpt")).global_step == 12


def test_a_checkpoint_of_another_model_is_refused():
    shapes = {"adapter": torch.Size([4, 2]), "head": torch.Size([6])}
    stored = {"backbone": {"name": "tiny"}, "state_dict": {name: torch.zeros(shape) for name, shape in shapes.items()}}
    check_checkpoint(stored, shapes, {"name": "tiny"})
    with pytest.raises(UserError, match="made for backbone"):
        check_checkpoint(stored, shapes, {"name": "large"})
    for other in (
        {**shapes, "adapter": torch.Size([8, 2])},
        {"head": shapes["head"]},
        {**shapes, "more": torch.Size([1])},
    ):
        with pytest.raises(UserError, match="does not fit this model"):
            check_checkpoint(stored, other, {"name": "tiny"})


def test_a_checkpoint_that_cannot_be_written_whole_leaves_the_one_before(tmp_path, monkeypatch):
    path, plugin = tmp_path / "last.ckpt", WholeCheckpoints()
    plugin.save_checkpoint({"step": 1}, path)

    def full_disk(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="disk full"):
        plugin.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
