"""Callbacks, loggers and arguments of the Trainer that are typed, in whole runs and in what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from added import write_package
from test_config import settings
from tracking.offline_run import sittings
from typed import ABR, call, runs

from edgenetllm.config import load_config
from edgenetllm.errors import UserError
from edgenetllm.nodes import locate
from edgenetllm.run import config_hash
from edgenetllm.stages.fitting import build_module
from edgenetllm.stages.identity import adaptation_identity
from edgenetllm.stages.trainer import check_trainer

LR = "+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor"
CSV = "lightning.pytorch.loggers.CSVLogger"


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> str:
    return write_package(tmp_path_factory.mktemp("package"))


def added(node: str, target: str, /, **options: object) -> list[str]:
    """Words that add a node: `added("callbacks.lr", "package.Class", factor=1)`."""
    return [f"+{node}._target_={target}", *(f"+{node}.{key}={value}" for key, value in options.items())]


def rows(run: Path) -> list[dict[str, str]]:
    (file,) = (run / "csv").glob("version_*/metrics.csv")
    with file.open() as lines:
        return list(csv.DictReader(lines))


@pytest.mark.slow
def test_callbacks_and_arguments_of_the_trainer_work_in_a_run(tmp_path, package, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", package)
    shrink = added("callbacks.shrink", "mylab.pieces.Shrink", factor=0.5, written=tmp_path / "shrunk")
    words = [LR, *shrink, "+trainer.profiler=simple", "trainer.limit_val_batches=0.5", "+trainer.log_every_n_steps=1"]
    call("train.py", tmp_path, *ABR, *words)
    (run,) = runs(tmp_path, "train")
    steps = [row for row in rows(run) if row["train/loss"]]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert len(steps) == config["budget"]["epochs"] * config["budget"]["batches_per_epoch"]
    assert any(row.get("lr-AdamW/pg1") for row in rows(run))
    seen = json.loads((tmp_path / "shrunk-0.json").read_text())
    assert seen == {"steps": len(steps), "loggers": ["CSVLogger"]}
    log = (run / "run.log").read_text()
    assert "FIT Profiler Report" in log
    assert "[LightningModule]" in log
    assert "UserWarning: weights were shrunk" in log
    output = call("prune.py", tmp_path, f"run={run}", "sparsity=0.6", ok=False)  # its configuration names foreign code
    assert "callbacks.shrink._target_='mylab.pieces.Shrink'" in output
    assert "trust=[mylab]" in output
    call("prune.py", tmp_path, f"run={run}", "sparsity=0.6", "trust=[mylab]")
    output = call("prune.py", tmp_path, f"run={run}", "trust=[mylab]", "+callbacks.shrink.factor=0.1", ok=False)
    assert "shapes an adaptation" in output


@pytest.mark.slow
def test_several_loggers_get_everything(trained, package, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", package)
    words = ["logger=[wandb,csv]", *added("logger.lines", "mylab.pieces.Lines", server="here")]
    words += added("logger.second", CSV, name="second")
    call("train.py", trained, *ABR, "sparsity=0.5", *words)
    run = runs(trained, "train")[-1]
    (logged,) = sittings(run)
    lines = [json.loads(line) for line in (run / "lines.jsonl").read_text().splitlines()]
    metrics = {key: value for line in lines for key, value in line.get("metrics", {}).items()}
    tables = {key: value for row in rows(run) for key, value in row.items() if value}
    (second,) = (run / "second").glob("version_*/metrics.csv")
    assert "test/qoe" in second.read_text()
    assert logged.summary["test/qoe"] == metrics["test/qoe"] == pytest.approx(float(tables["test/qoe"]))
    assert any(name.startswith("media/table") for name in logged.files)
    assert logged.made()
    assert lines[0] == {"server": "here"}
    assert lines[1]["params"]["sparsity"] == 0.5
    assert lines[-1] == {"status": "success"}
    output = call("evaluate.py", trained, f"run={run}", ok=False)
    assert "logger.lines._target_='mylab.pieces.Lines'" in output
    call("evaluate.py", trained, f"run={run}", "trust=[mylab]")
    assert (runs(trained, "evaluate")[-1] / "lines.jsonl").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (added("callbacks.lr", "lightning.pytorch.callbacks.Timr"), "did you mean lightning.pytorch.callbacks.Timer"),
        ([LR, "+callbacks.lr.loging_interval=step"], "did you mean callbacks.lr.logging_interval?"),
        (["+callbacks.pacience=3"], "callbacks.pacience is not a key of the configuration; did you mean callbacks.patience?"),
        (["+callbacks.lr.logging_interval=step"], "has no class: +callbacks.lr._target_="),
        (added("callbacks.stop", "lightning.pytorch.callbacks.EarlyStopping"), "callbacks.stop.monitor is missing"),
        (added("callbacks.x", CSV), "callbacks.x._target_=lightning.pytorch.loggers.CSVLogger is no lightning Callback"),
        (added("callbacks.x", "nolab.Callback"), "there is no package nolab on PYTHONPATH"),
        (added("callbacks.x", "Callback"), "give the dotted name of a class"),
        (["+logger.projet=x"], "did you mean logger.project?"),
        (added("logger.x", "lightning.pytorch.callbacks.Callback"), "is no lightning Logger"),
        (added("logger.x", CSV, nam="y"), "did you mean logger.x.name?"),
        (["+trainer.profilr=simple"], "trainer.profilr is not a key of the configuration; did you mean trainer.profiler?"),
        (["+trainer.callbacks=[]"], "trainer.callbacks=[] is set by this project: add one with +callbacks."),
        (["+trainer.logger=false"], "choose with logger="),
        (["+trainer.max_epochs=3"], "type budget.epochs="),
        (["+trainer.default_root_dir=x"], "paths.log_dir"),
        (["+trainer.enable_checkpointing=false"], "the best checkpoint is what is pruned"),
        (["+trainer.check_val_every_n_epoch=50"], "nothing is ever validated"),
        (["+trainer.max_steps=1"], "ends before the first validation"),
        (["trainer.limit_val_batches=0"], "trainer.limit_val_batches=0: give a number of batches"),
        (["trainer.limit_train_batches=1.5"], "trainer.limit_train_batches=1.5: give a number of batches"),
        (["trainer.limit_train_batches=0.001"], "trainer.limit_train_batches=0.001 of budget.batches_per_epoch"),
        (["trainer.fast_dev_run=maybe"], "trainer.fast_dev_run='maybe': give true, or a number of batches"),
        (added("trainer.profiler", "lightning.pytorch.profilers.SimpleProfiler", filenam="x"), "trainer.profiler.filename?"),
        (["trainer._target_=lightning.LightningModule"], "is no lightning Trainer"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_named_with_what_to_type(words, message):
    with pytest.raises(UserError) as error:
        load_config(settings("experiment=debug", *words))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+trainer.profiler=fast"], "trainer: lightning.Trainer cannot be built"),
        (["+trainer.max_time=soon"], "trainer: lightning.Trainer cannot be built"),
        ([LR, "+callbacks.lr.logging_interval=hour"], "callbacks.lr.logging_interval='hour': give one of step, epoch"),
    ],
)
def test_values_that_lightning_refuses_are_refused_before_anything_is_begun(words, message):
    with pytest.raises(UserError) as error:
        check_trainer(load_config(settings("experiment=debug", *words)))
    assert message in str(error.value)


def test_a_typed_argument_without_its_plus_says_so(tmp_path):
    output = call("train.py", tmp_path, *ABR, "trainer.profiler=simple", ok=False)
    assert "+trainer.profiler=" in output
    output = call("train.py", tmp_path, *ABR, "callbacks.lr._target_=lightning.pytorch.callbacks.Timer", ok=False)
    assert "+callbacks.lr._target_=" in output
    assert not runs(tmp_path, "train")


def test_a_node_of_null_is_left_out():
    config = load_config(settings("experiment=debug", "logger.csv=null", "+callbacks.lr=null"))
    assert (config.logger.nodes, config.callbacks.added) == ({}, {})


def test_a_trainer_of_another_package_takes_its_own_arguments(mylab, capsys):
    words = [f"trainer._target_={mylab}.pieces.MyTrainer", "+trainer.greeting=ahoy", "+trainer.detect_anomaly=true"]
    check_trainer(load_config(settings("experiment=debug", *words)))
    assert "ahoy" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"trainer\.greting is not a key.*did you mean trainer\.greeting"):
        load_config(settings("experiment=debug", words[0], "+trainer.greting=ahoy"))


def test_what_is_added_to_the_fit_counts_in_the_identity_of_the_adaptation_with_its_code(mylab, tmp_path):
    def identity(*words: str) -> dict:
        return adaptation_identity(load_config(settings("experiment=debug", *words)), False)

    plain, shrink = identity(), added("callbacks.x", f"{mylab}.pieces.Shrink", factor=0.5, written="x")
    with_callback = identity(*shrink)
    assert set(with_callback) - set(plain) == {"callbacks.x._target_", "callbacks.x.factor", "callbacks.x.written"}
    assert with_callback["code"] != plain["code"]  # that of mylab belongs to it
    lr = identity(LR)
    assert (lr["code"], lr["callbacks.lr._target_"]) == (plain["code"], LR.partition("=")[2])
    assert identity("+trainer.gradient_clip_algorithm=value") != plain
    assert identity("trainer.limit_train_batches=2") != plain
    for word in ("logger=[csv,wandb]", f"+logger.x._target_={CSV}", "callbacks.progress_bar=false"):
        assert identity(word) == plain
        assert config_hash(settings("experiment=debug", word)) == config_hash(settings("experiment=debug"))


def test_a_callback_that_fails_in_the_making_is_a_sentence(mylab):
    words = added("callbacks.x", f"{mylab}.pieces.Shrink", factor=3, written="x")
    with pytest.raises(UserError, match=r"callbacks\.x: .*Shrink cannot be built \(ValueError: factor=3 is above 1\)"):
        check_trainer(load_config(settings("experiment=debug", *words)))
    with pytest.raises(UserError, match="is no lightning Callback"):
        load_config(settings("experiment=debug", *added("callbacks.x", f"{mylab}.pieces.Nothing")))


def test_a_class_inside_of_a_class_and_a_broken_module_are_distinguished(tmp_path, monkeypatch):
    (tmp_path / "brokenlab.py").write_text("import nosuchlibrary\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"brokenlab cannot be imported \(No module named 'nosuchlibrary'\)"):
        locate("brokenlab.Thing")
    assert locate("logging.Logger.manager") is not None


@pytest.mark.slow
def test_fast_dev_run_is_a_batch_or_a_few_and_a_whole_run(tmp_path):
    call("train.py", tmp_path, *ABR, "trainer.fast_dev_run=2", "trainer.accumulate=2", "+trainer.log_every_n_steps=1",
         "trainer.warmup_steps=0")  # fmt: skip
    (run,) = runs(tmp_path, "train")
    assert len([row for row in rows(run) if row["train/loss"]]) == 2
    assert (run / "abr/results.json").is_file()


SGD = ["module.optimizer._target_=torch.optim.SGD", "~module.optimizer.betas", "+module.optimizer.momentum=0.9"]
ONE_CYCLE = ["module.scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "~module.scheduler.warmup_steps",
             "+module.scheduler.max_lr=4e-3"]  # fmt: skip


@pytest.mark.slow
def test_another_optimizer_and_another_schedule_work_in_a_run(tmp_path):
    call("train.py", tmp_path, *ABR, *SGD, *ONE_CYCLE, LR, "+trainer.log_every_n_steps=1")
    (run,) = runs(tmp_path, "train")
    rates = [float(row["lr-SGD/pg1"]) for row in rows(run) if row.get("lr-SGD/pg1")]
    assert max(rates) > 2 * rates[0]
    assert rates[-1] < rates[0]
    state = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]
    assert "momentum" in state["param_groups"][0]
    assert state["param_groups"][0]["weight_decay"] == 0.01
    call("prune.py", tmp_path, f"run={run}", "sparsity=0.6")
    output = call("prune.py", tmp_path, f"run={run}", "+module.optimizer.momentum=0.5", ok=False)
    assert "shapes an adaptation" in output


def test_the_default_optimizer_and_schedule_are_those_without_the_group():
    """Bit by bit, over the whole schedule, and the same as in the saved configuration of an older run."""
    weights = []
    for older in (False, True):
        composed = settings("experiment=debug", "trainer.weight_decay=0.1", "trainer.warmup_steps=3")
        config = load_config({key: value for key, value in composed.items() if not (older and key == "module")})
        module = build_module(config, {"abr": 0.0}, in_bf16=False)
        made = module.configure_optimizers()
        optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
        for step in range(config.budget.epochs * config.budget.batches_per_epoch):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.sin(parameter.detach() * 50 + step)
            optimizer.step()
            schedule.step()
        weights.append({name: value for name, value in module.named_parameters() if value.requires_grad})
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (SGD[:1], "torch.optim.SGD does not take it; leave it away: ~module.optimizer.betas"),
        (["module.optimizer._target_=torch.optim.SDG"], "did you mean torch.optim.SGD?"),
        (["module.optimizer._target_=torch.nn.Linear"], "is no torch Optimizer"),
        (["~module.optimizer._target_"], "module.optimizer has no class"),
        (["module.scheduler._target_=torch.optim.lr_scheduler.StepLR", ONE_CYCLE[1]], "scheduler.step_size is missing"),
        (["module.scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", ONE_CYCLE[1]], "waits for a metric"),
        (["+module.scheduer={}"], "did you mean module.scheduler?"),
        (["module.optimizer.betas=[2,3]"], "module.optimizer: torch.optim.AdamW cannot be built (ValueError: Invalid beta"),
    ],
)  # fmt: skip
def test_an_optimizer_or_a_schedule_that_cannot_be_built_is_refused(words, message):
    with pytest.raises(UserError) as error:
        check_trainer(load_config(settings("experiment=debug", *words)))
    assert message in str(error.value)


def test_optimizer_and_schedule_count_in_the_identity_of_the_adaptation():
    identities = [
        adaptation_identity(load_config(settings("experiment=debug", *words)), False)
        for words in ([], SGD, ONE_CYCLE, ["module.optimizer.betas=[0.9,0.99]"])
    ]
    assert all(one != other for number, one in enumerate(identities) for other in identities[:number])


@pytest.mark.slow
def test_every_rank_has_the_callbacks_and_the_first_one_the_loggers(tmp_path, package, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", package)
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=fp32"]
    shrink = added("callbacks.shrink", "mylab.pieces.Shrink", factor=0.5, written=tmp_path / "shrunk")
    call("train.py", tmp_path, *ABR, *two, LR, *shrink)
    seen = [json.loads((tmp_path / f"shrunk-{rank}.json").read_text()) for rank in (0, 1)]
    assert [one["loggers"] for one in seen] == [["CSVLogger"], ["DummyLogger"]]
    assert seen[0]["steps"] == seen[1]["steps"] > 0
