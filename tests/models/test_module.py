"""Learning goes on where it was interrupted, in whatever parts a batch is learnt."""

from __future__ import annotations

import lightning as L
from small import ARCHITECTURES, make_policy

from edgenetllm.experience.collect import Share, collect
from edgenetllm.experience.joint_datamodule import build_datamodule
from edgenetllm.models.checkpoint import LastCheckpoint
from edgenetllm.models.module import CHECKED_EVERY, AdaptationModule


def test_a_run_of_accumulated_batches_goes_on_after_an_epoch(task, tmp_path):
    """The first part of the first batch then has a step count at which the loss is checked, and no loss yet."""
    pool = collect(task, [Share("bba", 8)], seed=0, folder=tmp_path / "pool", workers=1)

    def fit(epochs: int, start: str | None = None) -> int:
        module = AdaptationModule(
            make_policy(task, dict(ARCHITECTURES["llama"])), task, backbone={"name": "tiny", "hash": "", "layers": 2},
            target_return=1.0, adapter_lr=1e-3, task_lr=1e-3, weight_decay=0.0, warmup_steps=1,
            total_steps=2 * CHECKED_EVERY,
        )  # fmt: skip
        data = build_datamodule(task, pool, batch_size=4, batches_per_epoch=CHECKED_EVERY, seed=0, accumulate=2)
        trainer = L.Trainer(
            max_epochs=epochs, accumulate_grad_batches=2, callbacks=[LastCheckpoint(tmp_path)], accelerator="cpu",
            logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True)
        return trainer.global_step

    assert fit(1) == CHECKED_EVERY
    assert fit(2, str(tmp_path / "last.ckpt")) == 2 * CHECKED_EVERY
