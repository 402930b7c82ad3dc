"""The folder behind run= may be somebody else's: nothing that it names is built or called unless this command trusts it."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from test_config import settings
from typed import call, runs

from edgenetllm.errors import UserError
from edgenetllm.trust import check_pruner, check_saved, check_saved_choices, check_target

HOSTILE = [
    "joblib.load", "numpy.load", "torch.load", "torch.hub.load", "pathlib.Path.write_text", "shutil.copyfile",
    "transformers.dynamic_module_utils.get_class_in_module", "os.system", "builtins.eval", "builtins.open",
    "shutil.rmtree", "subprocess.Popen",
    "hydra.utils.instantiate", "hydra.utils.get_method", "pickle.loads", "runpy.run_path", "importlib.import_module",
    "edgenetllm.files.write_json", "edgenetllm.files.shutil.copyfile", "edgenetllm.files.os.system", "edgenetllm.cli.main",
    "edgenetllm.pruning.oneshot.TemporaryDirectory", "edgenetllm.pruning.oneshot.prune_module", "edgenetllm.tasks.fetch.find",
    "edgenetllm.models.backbone.subprocess.run", "edgenetllm.models.backbone.AutoModel.from_pretrained",
    "edgenetllm.stages.trial.StopBadTrial", "edgenetllm.models.backbone.Path", "edgenetllm.tasks.abr.task.tqdm",
    "mylab.tasks.Task", "Popen", "", 3, None, ["os.system"], "edgenetllm.pruning..wanda", "os.path;import os",
]  # fmt: skip
OURS = [
    "edgenetllm.tasks.abr.task.AbrTask", "edgenetllm.tasks.cjs.data.datasets.Tpch",
    "edgenetllm.models.backbone.WheelBackbone", "edgenetllm.models.adapters.Lora",
    "edgenetllm.pruning.options.Pruning", "edgenetllm.pruning.sparsegpt.SparseGpt",
    "edgenetllm.pruning.recovery.specialise.Specialise", "edgenetllm.tasks.abr.expert.counterfactual.CounterfactualSearch",
]  # fmt: skip


@pytest.mark.parametrize("target", HOSTILE, ids=str)
def test_what_is_no_class_of_a_config_group_is_refused(target):
    with pytest.raises(UserError, match=r"config\.yaml: task\.deep\[1\]\._target_=.*was not built"):
        check_saved({"task": {"deep": [1, {"_target_": target, "x": 1}]}}, [], "config.yaml")


@pytest.mark.parametrize("target", OURS)
def test_the_classes_of_our_groups_are_built(target):
    check_saved({"group": {"_target_": target}}, [], "config.yaml")


LIGHTNINGS = [
    ("callbacks", "lightning.pytorch.callbacks.LearningRateMonitor"),
    ("callbacks", "lightning.pytorch.callbacks.model_summary.ModelSummary"),
    ("logger", "lightning.pytorch.loggers.WandbLogger"), ("logger", "lightning.pytorch.loggers.MLFlowLogger"),
    ("trainer", "lightning.pytorch.profilers.SimpleProfiler"),
    ("module", "torch.optim.SGD"),
    ("module", "torch.optim.lr_scheduler.OneCycleLR"),
    ("module", "edgenetllm.models.schedule.WarmupCosine"),
]  # fmt: skip
NOT_LIGHTNINGS = [
    ("module", "torch.optim.swa_utils.AveragedModel"),
    ("module", "torch.optim.lr_scheduler.partial"),
    ("logger", "torch.optim.SGD"),
    ("callbacks", "lightning.pytorch.callbacks.timer.timedelta"), ("callbacks", "lightning.pytorch.loggers.CSVLogger"),
    ("callbacks", "lightning.pytorch.callbacks.model_checkpoint.get_filesystem"), ("callbacks", "lightning.Trainer"),
    ("logger", "lightning.pytorch.loggers.csv_logs.os.system"),
    ("logger", "lightning.pytorch.loggers.csv_logs.ExperimentWriter"),
    ("logger", "lightning.fabric.loggers.CSVLogger"), ("trainer", "lightning.pytorch.profilers.profiler.Path"),
    ("task", "lightning.pytorch.callbacks.LearningRateMonitor"),
    ("callbacks", "lightning.pytorch.callbacks.LambdaCallback;os"),
]  # fmt: skip


@pytest.mark.parametrize(("group", "target"), LIGHTNINGS)
def test_classes_of_lightning_that_a_group_takes_are_built(group, target):
    check_saved({group: {"x": {"_target_": target}}}, [], "config.yaml")


@pytest.mark.parametrize(("group", "target"), NOT_LIGHTNINGS)
def test_nothing_else_of_lightning_is(group, target):
    with pytest.raises(UserError, match=rf"config\.yaml: {group}\.x\._target_=.*was not built"):
        check_saved({group: {"x": {"_target_": target}}}, [], "config.yaml")


@pytest.mark.parametrize(
    "node",
    [
        {"save_dir": "elsewhere"},
        {"name": "../../x"},
        {"tracking_uri": "x"},
        {"settings": {"x": 1}},
        {"version": "/etc"},
    ],
)
def test_a_saved_logger_neither_writes_nor_sends_elsewhere(node):
    (path,) = node
    saved = {"logger": {"csv": {"_target_": "lightning.pytorch.loggers.CSVLogger", **node}}}
    with pytest.raises(UserError, match=rf"config\.yaml: logger\.csv\.{path}.*trust=\[lightning\]"):
        check_saved(saved, [], "config.yaml")
    check_saved(saved, ["lightning"], "config.yaml")


def test_every_configuration_that_composes_is_one_that_may_be_saved():
    for words in (
        ["task=abr+cjs"],
        ["experience=expert", "pruning=alps", "recovery=reconstruct"],
        ["model=llama2"],
        ["logger=many"],
        ["trainer=fsdp"],
    ):
        check_saved(settings(*words), [], "config.yaml")


def test_a_package_is_trusted_by_this_command_with_what_it_defines_itself():
    check_target("json.decoder.JSONDecoder", ["json"], "x")
    with pytest.raises(UserError, match=r"trust=\[json\]"):
        check_target("json.decoder.JSONDecoder", [], "x")
    with pytest.raises(UserError, match="was not built"):  # a module that it imports is not its own
        check_target("json.codecs.open", ["json"], "x")


def test_an_interpolation_is_not_resolved():
    with pytest.raises(UserError, match=r"logger\.project holds an interpolation"):
        check_saved({"logger": {"project": "${oc.env:HOME}"}}, [], "config.yaml")


@pytest.mark.parametrize(
    "choices",
    [{"+task.x._target_": "os.system"}, {"hydra/launcher": "joblib"}, {"model": "tiny sparsity=1"}, {"model": "../../etc"},
     {"model": {"_target_": "x"}}, {"model": "a,b"}, {"~model": "tiny"}, {3: "x"}],
)  # fmt: skip
def test_choices_of_a_run_cannot_type_anything_else(choices):
    with pytest.raises(UserError, match="no choice of a config group"):
        check_saved_choices(choices, "choices.yaml")


def test_the_pruner_of_a_stored_trial_is_one_of_optunas():
    check_pruner({"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 5}, [], "trial.json: pruner")
    for target in ("os.system", "joblib.load", "optuna.storages.JournalStorage"):
        with pytest.raises(UserError, match=r"trial\.json: pruner\._target_"):
            check_pruner({"_target_": target}, [], "trial.json: pruner")


def test_a_run_of_somebody_else_executes_nothing(trained, tmp_path):
    """Through evaluate.py and prune.py, where it would be built; the folder's own word on trust does not count."""
    source = runs(trained, "train")[0]
    for number, (group, node) in enumerate(
        [
            ("data", {"_target_": "pathlib.Path.write_text", "self": str(tmp_path / "ran"), "data": "x"}),
            ("task", {"_target_": "shutil.copyfile", "src": "/etc/hostname", "dst": str(tmp_path / "ran")}),
            ("recovery", {"_target_": "joblib.load", "filename": str(tmp_path / "ran.pkl")}),
        ]
    ):
        folder = tmp_path / f"run{number}"
        shutil.copytree(source, folder)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config[group] |= node
        config["trust"] = ["pathlib", "shutil", "joblib"]
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        script = "prune.py" if group == "recovery" else "evaluate.py"
        output = call(script, tmp_path, f"run={folder}", "dry_run=true", ok=False)
        assert f"{group}._target_" in output
        assert "was not built" in output
        assert "Traceback" not in output
    assert not (tmp_path / "ran").exists()


def test_a_saved_interpolation_and_altered_choices_are_refused(trained, tmp_path):
    source = runs(trained, "train")[0]
    folder = tmp_path / "run"
    shutil.copytree(source, folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["logger"]["project"] = "${oc.env:HOME}"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert "interpolation" in call("evaluate.py", tmp_path, f"run={folder}", "dry_run=true", ok=False)
    shutil.copy(source / "config.yaml", folder / "config.yaml")
    choices = yaml.safe_load((folder / "choices.yaml").read_text())
    (folder / "choices.yaml").write_text(yaml.safe_dump({**choices, "+recovery._target_": "os.system"}))
    assert "no choice of a config group" in call("evaluate.py", tmp_path, f"run={folder}", "dry_run=true", ok=False)


def test_a_trained_run_is_pruned_and_evaluated_with_its_own_configuration(trained):
    folder = runs(trained, "train")[0]
    assert "would replay" in call("evaluate.py", trained, f"run={folder}", "dry_run=true")
    identity = json.loads((folder / "abr/results.json").read_text())["identity"]
    assert "seed" not in identity
    assert {"adapter.rank", "sparsity", "code", "backbone", "data.learnt", "pruning.code", "evaluation.code"} <= set(
        identity
    )
