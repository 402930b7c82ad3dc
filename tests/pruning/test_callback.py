"""The pruning callback in somebody else's Trainer, around a Hugging Face language model."""

from __future__ import annotations

import copy
import re
import runpy

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import LoraConfig, get_peft_model
from small import ROOT
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from edgenetllm.errors import UserError
from edgenetllm.models.decoder import prunable_layers
from edgenetllm.pruning import wanda
from edgenetllm.pruning.callback import OneShotPruning
from edgenetllm.pruning.magnitude import Magnitude
from edgenetllm.pruning.oneshot import decoder_of
from edgenetllm.pruning.options import Pruning
from edgenetllm.pruning.sparsegpt import SparseGpt
from edgenetllm.pruning.wanda import Wanda

VOCABULARY = 64


class LanguageModel(L.LightningModule):
    """Knows nothing of EdgeNetLLM but the two names that the callback asks for."""

    def __init__(self, lr: float = 1e-2, dropout: float = 0.0, scores: tuple[float, ...] = (), **call: object) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.lm = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                    num_attention_heads=4, attention_dropout=dropout,
                )
            )  # fmt: skip
        self.lr, self.scores, self.call = lr, scores, call

    @property
    def decoder(self):
        return self.lm.model

    def calibration_step(self, batch):
        return self.lm(**batch, **self.call)

    def training_step(self, batch, index):
        return self.lm(**batch, labels=batch["input_ids"]).loss

    def validation_step(self, batch, index):
        if self.scores:
            self.log("score", self.scores[self.current_epoch])
            self.log("other", -self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


def sequences(number: int = 24, length: int = 10, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    drawn = torch.randint(VOCABULARY, (number, length), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": row} for row in drawn]


def loader(batch_size: int = 4, **options: bool) -> DataLoader:
    return DataLoader(sequences(), batch_size=batch_size, **options)


def trainer_of(tmp_path, *callbacks, **options) -> L.Trainer:
    return L.Trainer(
        default_root_dir=tmp_path, callbacks=list(callbacks), accelerator="cpu", logger=False, enable_model_summary=False,
        enable_progress_bar=False, **{"max_epochs": 1, "enable_checkpointing": False, **options},
    )  # fmt: skip


def pruner(sparsity: float = 0.6, **options) -> OneShotPruning:
    return OneShotPruning(**{"method": Wanda(), "sparsity": sparsity, "progress": False, "windows": 8, **options})


def zeros_of(module: L.LightningModule) -> int:
    return sum(int((layer.weight == 0).sum()) for layer in prunable_layers(decoder_of(module)).values())


def masks_of(module: L.LightningModule) -> dict[str, torch.Tensor]:
    return {name: layer.weight == 0 for name, layer in prunable_layers(decoder_of(module)).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_example_of_the_readme_prunes_once_after_the_fit(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (script,) = [block for block in blocks if "OneShotPruning" in block]
    assert len([line for line in script.splitlines() if line.strip()]) <= 20
    (tmp_path / "script.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path("script.py")
    model, report = names["model"], names["pruning"].report
    weights = sum(row.weights for row in report)
    assert len(report) == len(prunable_layers(decoder_of(model)))
    assert sum(row.zeros for row in report) == zeros_of(model) == round(0.6 * weights)
    assert capsys.readouterr().out.count("block weights are zero (60.00%)") == 1
    untouched = [model.decoder.lm_head.weight, model.decoder.model.embed_tokens.weight]
    assert all(bool((weight != 0).all()) for weight in untouched)


def test_the_best_checkpoint_is_pruned_and_what_is_on_disk_stays_dense(tmp_path):
    module, callback = LanguageModel(scores=(1.0, 3.0, 2.0)), pruner()
    best = ModelCheckpoint(tmp_path, monitor="score", mode="max", save_last=True, filename="{epoch}")
    trainer = trainer_of(tmp_path, callback, best, max_epochs=3, enable_checkpointing=True)
    trainer.fit(module, loader(), loader())
    assert "epoch=1" in best.best_model_path
    chosen = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    last = torch.load(best.last_model_path, weights_only=True)["state_dict"]
    for name, layer in prunable_layers(module.decoder).items():
        stored = chosen[f"lm.model.{name}.weight"]
        assert bool((stored != 0).all())
        assert bool((last[f"lm.model.{name}.weight"] != 0).all())
        assert torch.equal(layer.weight, stored.masked_fill(layer.weight == 0, 0.0))
    assert torch.equal(module.lm.lm_head.weight, chosen["lm.lm_head.weight"])
    assert zeros_of(module) == sum(row.zeros for row in callback.report) > 0


def test_of_several_monitored_figures_one_is_named_before_the_fit(tmp_path):
    kept = [
        ModelCheckpoint(tmp_path / name, monitor=name, mode="max", filename="{epoch}") for name in ("score", "other")
    ]
    module = LanguageModel(scores=(1.0, 3.0))
    before = copy.deepcopy(module.state_dict())
    for callback, message in (
        (pruner(), r"monitor=\.\.\."),
        (pruner(monitor="loss"), "monitors that, but score, other"),
    ):
        with pytest.raises(UserError, match=message):
            trainer_of(tmp_path, callback, *kept, enable_checkpointing=True).fit(module, loader(), loader())
    assert same(before, module.state_dict())
    trainer_of(tmp_path, pruner(monitor="other"), *kept, max_epochs=2, enable_checkpointing=True).fit(
        module, loader(), loader()
    )
    stored = torch.load(tmp_path / "other" / "epoch=0.ckpt", weights_only=True)["state_dict"]
    layer = next(iter(prunable_layers(module.decoder).values()))
    assert torch.equal(
        layer.weight, stored["lm.model.layers.0.self_attn.q_proj.weight"].masked_fill(layer.weight == 0, 0.0)
    )


def test_lora_is_merged_into_what_is_pruned(tmp_path):
    module, callback = LanguageModel(), pruner(0.5)
    module.lm.model = get_peft_model(module.lm.model, LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    start = module.decoder.get_base_model().layers[0].mlp.up_proj.base_layer.weight.clone()
    trainer_of(tmp_path, callback, max_epochs=2).fit(module, loader())
    layers = prunable_layers(decoder_of(module))
    assert len(callback.report) == len(layers) == 14
    assert not any("lora" in name or "base_layer" in name for name in layers)
    merged = layers["layers.0.mlp.up_proj"].weight
    assert bool((merged[merged != 0] != start[merged != 0]).any())
    assert zeros_of(module) == round(0.5 * sum(row.weights for row in callback.report))


def test_a_pruned_module_is_not_fitted_again_in_silence(tmp_path):
    module, callback = LanguageModel(), pruner()
    trainer_of(tmp_path, callback).fit(module, loader())
    state = copy.deepcopy(module.state_dict())
    for again, message in (
        (callback, "by this callback already"),
        (pruner(0.7), r"pruned already.*pruning\.force=true"),
    ):
        with pytest.raises(UserError, match=message):
            trainer_of(tmp_path, again).fit(module, loader())
    assert same(state, module.state_dict())
    small = pruner(0.001)  # too few zeros to be seen
    fresh = LanguageModel()
    trainer_of(tmp_path, small).fit(fresh, loader())
    with pytest.raises(UserError, match="by this callback already"):
        trainer_of(tmp_path, small).fit(fresh, loader())
    trainer_of(tmp_path, callback).fit(other := LanguageModel(), loader())  # another module is another matter
    assert zeros_of(other) == sum(row.zeros for row in callback.report)
    further = pruner(0.7, force=True)
    trainer_of(tmp_path, further).fit(module, loader())
    assert zeros_of(module) == round(0.7 * sum(row.weights for row in further.report))


def test_more_than_one_process_is_refused(tmp_path):
    trainer = trainer_of(tmp_path, pruner(), devices=2, strategy="ddp_fork")
    with pytest.raises(Exception, match=r"prunes in one process, and this Trainer has 2.*apply\(module, batches\)"):
        trainer.fit(LanguageModel(), loader())


@pytest.mark.parametrize(("method", "rows"), [(Wanda(), 8), (SparseGpt(), 9)])
def test_the_first_batches_of_a_loader_make_up_the_windows(tmp_path, method, rows):
    """As many batches as hold them, whatever was drawn before: a shuffled loader gives the same ones."""
    masks = []
    for start in (1, 2):
        torch.manual_seed(start)
        module = LanguageModel(lr=0.0)
        seen: list[int] = []
        step = module.calibration_step
        module.calibration_step = lambda batch, step=step, seen=seen: (
            seen.append(len(batch["input_ids"])),
            step(batch),
        )
        trainer_of(tmp_path, pruner(method=method, windows=rows)).fit(module, loader(shuffle=True))
        assert seen == [4] * -(-rows // 4)
        masks.append(masks_of(module))
    assert same(*masks)


def test_a_datamodule_can_say_what_it_is_calibrated_on(tmp_path):
    asked = []

    class Data(L.LightningDataModule):
        def train_dataloader(self):
            return loader()

        def calibration_batches(self, windows):
            asked.append(windows)
            return [{"input_ids": torch.stack([row["input_ids"] for row in sequences(seed=5)])}]

    module, by_hand = LanguageModel(lr=0.0), LanguageModel(lr=0.0)
    trainer_of(tmp_path, pruner(windows=3)).fit(module, datamodule=Data())
    assert asked == [3]
    pruner(windows=3).apply(by_hand, Data().calibration_batches(3))
    assert same(module.state_dict(), by_hand.state_dict())


def test_padding_does_not_count_and_each_batch_keeps_its_own_mask():
    """Batches of one shape whose padding differs, on the left too: against hooks on the whole model."""
    rows = torch.stack([row["input_ids"] for row in sequences(8)])
    masks = [torch.ones(4, 10, dtype=torch.long), torch.ones(4, 10, dtype=torch.long)]
    masks[0][1:, 6:] = 0
    masks[1][2:, :5] = 0
    batches = [{"input_ids": rows[4 * i : 4 * i + 4], "attention_mask": mask} for i, mask in enumerate(masks)]
    module, slow = LanguageModel(), LanguageModel()
    pruner(0.5).apply(module, batches)
    for number in range(2):
        inside = {n: one for n, one in prunable_layers(slow.decoder).items() if n.startswith(f"layers.{number}.")}
        squares = dict.fromkeys(inside, torch.zeros(()))
        for batch in batches:
            kept = batch["attention_mask"].bool()

            def add(name, args, kept=kept, squares=squares):
                squares[name] = squares[name] + args[0][kept].square().sum(0)

            handles = [one.register_forward_pre_hook(lambda _, a, n=n: add(n, a)) for n, one in inside.items()]
            with torch.no_grad():
                slow.calibration_step(batch)
            for handle in handles:
                handle.remove()
        for name, layer in inside.items():
            share = float((prunable_layers(module.decoder)[name].weight == 0).float().mean())
            layer.weight.data.copy_(wanda.prune(layer.weight.data, squares[name], share))
    assert same(masks_of(module), masks_of(slow))
    other = [
        {**batch, "input_ids": torch.where(batch["attention_mask"] == 1, batch["input_ids"], 7)} for batch in batches
    ]
    pruner(0.5).apply(again := LanguageModel(), other)
    assert same(masks_of(module), masks_of(again))


def test_neither_a_cache_nor_dropout_nor_the_way_the_decoder_is_given_changes_a_bit():
    batches = [{"input_ids": torch.stack([row["input_ids"] for row in sequences(8, seed=seed)])} for seed in range(3)]
    plain = LanguageModel(use_cache=False).eval()
    pruner(method=SparseGpt()).apply(plain, batches)
    cached = LanguageModel(use_cache=True, dropout=0.5).train()
    pruner(method=SparseGpt()).apply(cached, batches)
    assert all(part.training for part in cached.modules())

    class Whole(LanguageModel):
        @property
        def decoder(self):
            return self.lm

    pruner(method=SparseGpt()).apply(whole := Whole(), batches)
    assert same(plain.state_dict(), cached.state_dict())
    assert same(plain.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (L.LightningModule(), {}, "has no decoder: pruning needs `decoder` and `calibration_step"),
        (LanguageModel(), {"allocation": "sensitivity"}, r"no calibration_loss\(batch\)"),
        (LanguageModel(), {"also": ["head"]}, r"no outside\(\)"),
        (LanguageModel(), {"structure": "2:4"}, r"sparsity=0\.5"),
        (LanguageModel(), {"sparsity": 1.5}, "a share from 0 to 1"),
    ],
)
def test_what_cannot_be_pruned_is_refused_before_the_fit(tmp_path, module, options, message):
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(UserError, match=message):
        pruner(**options).on_fit_start(trainer_of(tmp_path), module)
    assert same(before, module.state_dict())


def test_a_step_that_does_not_run_the_decoder_and_a_mask_that_does_not_fit_are_refused():
    class Idle(LanguageModel):
        def calibration_step(self, batch):
            return self.lm.lm_head(torch.zeros(1, 32))

    class Wrong(LanguageModel):
        def calibration_mask(self, batch):
            return torch.ones(2, 2)

    batches = [{"input_ids": torch.stack([row["input_ids"] for row in sequences(4)])}]
    for module, message in (
        (Idle(), "has to run the decoder"),
        (Wrong(), r"mask of the calibration tokens is \(2, 2\)"),
    ):
        with pytest.raises(UserError, match=message):
            pruner().apply(module, batches)
        assert zeros_of(module) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"method": Wanda(), "pruning": Pruning(Magnitude())},
        {"pruning": Pruning(Magnitude()), "windows": 3},
        {"method": "wanda"},
        {"method": Wanda(), "calibration": "text"},
    ],
    ids=str,
)
def test_arguments_that_do_not_go_together_are_refused(arguments):
    with pytest.raises(UserError, match="OneShotPruning"):
        OneShotPruning(**arguments)
