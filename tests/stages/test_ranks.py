"""Two processes on the CPU (gloo) learn what one process learns, whichever way the model lies on them."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_config import settings
from torch.distributed.tensor import DTensor

from edgenetllm.config import load_config
from edgenetllm.errors import UserError
from edgenetllm.models.decoder import blocks
from edgenetllm.models.module import load_adaptation
from edgenetllm.run import CONFIG_FILE, Run
from edgenetllm.stages.fitting import build_module, fit
from edgenetllm.stages.pool import collect_pools
from edgenetllm.stages.ranks import spawn_ranks

STEPS = 6
SMALL = ("experiment=debug", "budget.epochs=2", "budget.batches_per_epoch=3", "trainer.warmup_steps=1",
         "trainer.batch_size=6", "trainer.threads=1", "trainer.precision=fp32", "callbacks.progress_bar=false")  # fmt: skip
FEW = "data.val=6"
BOTH = (
    "task=abr+cjs",
    "budget.episodes={abr: 40, cjs: 4}",
    "data.abr.val=6",
    "data.cjs.setting=tiny",
    "trainer.batch_size=8",
)
TWO = ("trainer.accelerator=cpu", "trainer.devices=2")


class Learnt:
    """A fit in `folder` as this process, rank zero, saw it."""

    def __init__(self, folder: Path, cache: Path, *overrides: str) -> None:
        composed = settings(*SMALL, f"paths.cache_dir={cache}", *overrides)
        self.config = load_config(composed)
        self.folder = folder
        Run(folder, "train", composed, {}).start()
        pool = collect_pools(self.config)
        self.losses: list[float] = []
        seen = self.losses

        class Watching(Callback):
            def on_train_batch_end(self, trainer, module, outputs, batch, index):
                if (index + 1) % trainer.accumulate_grad_batches == 0:
                    seen.append(float(trainer.callback_metrics["train/loss"]))

        with spawn_ranks(folder, self.config.trainer.devices or 1, threads=1) as meet:
            self.module, _ = fit(self.config, folder, pool, None, meet, [Watching()])
        self.checkpoint = torch.load(folder / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache) -> Learnt:
    return Learnt(tmp_path_factory.mktemp("alone"), cache, FEW)


@pytest.fixture(scope="module", params=["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def together(request, tmp_path_factory, cache) -> Learnt:
    """FSDP with everything that saves memory at once."""
    more = ["trainer.accumulate=2", "trainer.gradient_checkpointing=true"] if request.param == "fsdp" else []
    return Learnt(tmp_path_factory.mktemp(request.param), cache, FEW, f"trainer={request.param}", *TWO, *more)


def test_the_losses_are_those_of_one_process_on_the_same_batches(alone, together):
    """The first loss differs by the order of float32 sums alone; later ones by what AdamW makes of it, whose first steps
    are as large for a gradient that is nearly zero."""
    assert len(alone.losses) == len(together.losses) == STEPS
    assert together.losses[0] == pytest.approx(alone.losses[0], rel=1e-6)
    assert together.losses == pytest.approx(alone.losses, rel=2e-4)
    assert max(alone.losses) - min(alone.losses) > 1e-2  # there was something to learn


def test_the_checkpoint_is_that_of_one_process(alone, together):
    """Same names and shapes, whole tensors, nothing frozen; and a single process loads it."""
    mine, theirs = alone.checkpoint, together.checkpoint
    assert mine.keys() == theirs.keys()
    assert theirs["state_dict"].keys() == alone.module.trained().keys()
    for name, tensor in theirs["state_dict"].items():
        assert type(tensor) is torch.Tensor
        assert torch.linalg.vector_norm(tensor - mine["state_dict"][name]) <= 2e-2 * torch.linalg.vector_norm(tensor)
    assert len(theirs["optimizer_states"][0]["state"]) == len(theirs["state_dict"])
    fresh = build_module(alone.config, {"abr": 0.0}, False)
    load_adaptation(fresh, str(together.folder / "checkpoints/last.ckpt"))
    loaded = dict(fresh.named_parameters())
    assert all(torch.equal(loaded[name], tensor) for name, tensor in theirs["state_dict"].items())


def test_one_process_goes_on_from_the_checkpoint_of_two(together, cache, tmp_path):
    """With the optimizer's state, for a third epoch."""
    shutil.copytree(together.folder / "checkpoints", tmp_path / "checkpoints")
    config = load_config(settings(*SMALL, FEW, f"paths.cache_dir={cache}", "budget.epochs=3"))
    _, facts = fit(config, tmp_path, collect_pools(config), None, lambda: None)
    assert facts["epochs"] == 3
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"] == STEPS + 3


def held_bytes(module) -> int:
    """The bytes of the weights that this rank holds between two steps."""
    local = [p.to_local() if isinstance(p, DTensor) else p for p in module.parameters()]
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


def test_with_fsdp_a_rank_holds_half_of_the_frozen_backbone_and_with_ddp_all_of_it(alone, together):
    inside = blocks(together.module.policy.decoder)
    frozen = [p for p in inside.parameters() if not p.requires_grad]
    trained = sum(p.numel() * 4 for p in inside.parameters() if p.requires_grad)
    whole = held_bytes(blocks(alone.module.policy.decoder)) - trained
    sharded = together.config.trainer.strategy == "fsdp"
    assert all(isinstance(parameter, DTensor) == sharded for parameter in frozen)
    assert held_bytes(inside) - trained == (whole // 2 if sharded else whole)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_so_do_two_tasks_on_one_backbone(tmp_path, cache, trainer):
    """And one process goes on from where the two stopped."""
    one = Learnt(tmp_path / "one", cache, *BOTH)
    two = Learnt(tmp_path / "two", cache, *BOTH, f"trainer={trainer}", *TWO)
    assert len(one.losses) == len(two.losses) == STEPS
    assert two.losses[0] == pytest.approx(one.losses[0], rel=1e-6)
    assert two.losses == pytest.approx(one.losses, rel=2e-4)
    config = load_config(settings(*SMALL, *BOTH, f"paths.cache_dir={cache}", "budget.epochs=3"))
    assert fit(config, two.folder, collect_pools(config), None, lambda: None)[1]["epochs"] == 3
    assert torch.load(two.folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == STEPS + 3


def test_nothing_of_it_stays(together):
    assert not torch.distributed.is_initialized()


class Killing(Callback):
    """Kills the other rank after a step, as the kernel does when memory is short."""

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        for child in psutil.Process().children():
            if "edgenetllm.stages.rank" in child.cmdline():
                child.kill()


@pytest.mark.parametrize("when", [pytest.param("before the first step", marks=pytest.mark.slow), "between two steps"])
def test_a_rank_that_fails_ends_the_fit(tmp_path, cache, when):
    """Without waiting until the process group's time is up."""
    composed = settings(*SMALL, FEW, f"paths.cache_dir={cache}", "trainer=ddp", *TWO)
    config = load_config(composed)
    Run(tmp_path, "train", composed, {}).start()
    pool = collect_pools(config)
    if when == "before the first step":
        (tmp_path / CONFIG_FILE).write_text("nothing: to fit\n")
    with pytest.raises(RuntimeError, match="rank 1 of the fit failed"), spawn_ranks(tmp_path, 2, threads=1) as meet:
        fit(config, tmp_path, pool, None, meet, [Killing()] if when == "between two steps" else [])
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.devices=2"], r"trainer\.devices=2: more than one device needs trainer=ddp or trainer=fsdp"),
        (["trainer=ddp", *TWO, "trainer.accumulate=4"], r"trainer\.batch_size=6.*8 parts"),
        (["trainer=fsdp", "trainer.accelerator=cpu"], r"trainer\.devices=null"),
    ],
)
def test_devices_that_do_not_fit_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(settings(*SMALL, *overrides))
