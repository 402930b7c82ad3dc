"""Every configuration composes and is valid; every mistake is named as it was typed."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from small import ROOT

from edgenetllm.config import load_config
from edgenetllm.errors import UserError
from edgenetllm.stages.export import check_export
from edgenetllm.stages.prepare import check_pruning

CONF = ROOT / "conf"


def settings(*overrides: str) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        container = OmegaConf.to_container(compose("config", list(overrides)), resolve=True)
    assert isinstance(container, dict)
    return container


def options(group: str) -> list[str]:
    """`_options.yaml` is what the others of a group share."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if not path.stem.startswith("_"))


GROUPS = ["task", "model", "adapter", "pruning", "experience", "budget", "trainer", "module", "callbacks", "logger",
          "export",
          "engine", "evaluation", "recovery", "experiment", "ablation"]  # fmt: skip


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in options(g)])
def test_every_option_composes_and_is_valid(group, option, tmp_path):
    """With what its file says must be typed with it, and the user's own data where a task has no other."""
    first = (CONF / group / f"{option}.yaml").read_text().partition("\n")[0]
    typed = [f"{group}={option}", *re.findall(r"Type (\S+=\S+) with it", first)]
    if option == "forecast":
        typed += own_data(option, tmp_path)
    load_config(settings(*typed))


def tasks_of(data: str) -> list[str]:
    """The first line of each data set's file says for which tasks it is."""
    first = (CONF / "data" / f"{data}.yaml").read_text().partition("\n")[0]
    stated = re.findall(r"task=([a-z0-9_+]+)", first.partition(":")[0])
    assert stated, f"conf/data/{data}.yaml: begin with '# For task=...: '"
    return stated


@pytest.mark.parametrize(("data", "task"), [(data, task) for data in options("data") for task in tasks_of(data)])
def test_every_data_set_composes_and_is_valid(data, task, tmp_path):
    typed = [f"task={task}", f"data={data}"]
    if task == "forecast" or "???" in str(settings(*typed)["data"]):
        typed += own_data(task, tmp_path)
    config = load_config(settings(*typed))
    assert [task.data.name for task in config.task_objects.values()] == data.split("+")  # type: ignore[attr-defined]


def own_data(task: str, folder: Path) -> list[str]:
    """A folder of the user's own data for a task, as it is typed."""
    (folder / "one.json").write_text('{"stages": {"only": {"tasks": 2, "durations_ms": [3000]}}}')
    columns = ["data.inputs=[a,b]", "data.answers=[a]", "data.history=4", "data.horizon=2"]
    return [f"data.path={folder}", *(columns if task == "forecast" else [])]


@pytest.mark.parametrize("data", [name for name in options("data") if len(tasks_of(name)) == 1])
def test_data_of_another_task_is_refused_by_its_name(data, tmp_path):
    (own,) = tasks_of(data)
    typed = own_data(own, tmp_path) if own == "forecast" else []
    for task in {"abr", "cjs"} - {own}:
        with pytest.raises(
            UserError, match=re.escape(f"data={data} is ") + f"(not )?for .*task{'s' if '+' in own else ''}"
        ):
            load_config(settings(f"task={task}", f"data={data}", *typed))


def test_the_users_own_data_of_another_task_is_refused_in_a_run_of_both(tmp_path):
    typed = ["task=abr+cjs", "data@data.abr=folder/abr", f"data.abr.path={tmp_path}", "data@data.cjs=folder"]
    with pytest.raises(UserError, match=r"data=folder is not for task=cjs.*data@data\.cjs=folder/cjs"):
        load_config(settings(*typed, f"data.cjs.path={tmp_path}"))
    load_config(settings(*typed[:3], "data@data.cjs=folder/cjs", *[f"data.cjs.{own_data('cjs', tmp_path)[0][5:]}"]))


def test_data_of_the_user_needs_a_path_only(tmp_path):
    load_config(settings("data=folder", f"data.path={tmp_path}"))


@pytest.mark.parametrize(
    ("task", "model"),
    itertools.product(
        ["abr", "cjs"],
        ["tiny", "smollm2", "llama2", "llama3", "qwen2_5", "mistral", "opt", "gpt2", "small_transformer"],
    ),
)
def test_no_weights_are_needed_to_check_a_configuration(task, model):
    config = load_config(settings(f"task={task}", f"model={model}"))
    assert config.sparsity == 0.4


MISTAKES = [
    ("sparsity=1.0", r"sparsity=1: give a share in \[0, 1\).*pruning=zero sparsity=1"),
    ("sparsity=1.5", r"sparsity=1\.5: give a number from 0 to 1"),
    ("sparsity=-0.1", r"sparsity=-0\.1: give a number from 0 to 1"),
    ("sparsity=half", r"sparsity='half'"),
    ("trainer.batch_size=0", r"trainer\.batch_size=0"),
    ("trainer.precision=fp8", r"trainer\.precision='fp8'"),
    ("+trainer.batchsize=4", r"trainer\.batchsize is not a key.*trainer\.batch_size"),
    ("+sparcity=0.4", r"sparcity is not a key.*sparsity"),
    ("adapter.rank=0", r"adapter\.rank=0"),
    ("+adapter.ranks=4", r"adapter\.ranks is not a key.*adapter\.rank"),
    ("task.train_videos=[video3]", r"task\.train_videos\.0='video3': give one of video1, video2, synthetic, generated"),
    ("task.train_videos=[video1,video1]", r"task\.train_videos=\['video1', 'video1'\]: name each video once"),
    ("task.tokens=merged", r"task\.tokens='merged'"),
    ("model.layers=0", r"model\.layers=0"),
    ("pruning.windows=0", r"pruning\.windows=0"),
    ("pruning.structure=5:2", r"pruning\.structure='5:2': give unstructured, or N:M"),
    ("pruning.allocation=best", r"pruning\.allocation='best'"),
    ("+pruning.structur=2:4", r"pruning\.structur is not a key.*pruning\.structure"),
    ("pruning=zero", r"sparsity=0\.4.*pruning=zero sparsity=1"),
    ("trainer.warmup_steps=100000", r"trainer\.warmup_steps"),
    ("experience.shares=[]", r"experience\.shares is empty"),
    ("evaluation.targets=[]", r"evaluation\.targets=\[\]: give a list, of at least one entry"),
    ("evaluation.targets=[1.5]", r"evaluation\.targets\.0=1\.5"),
]
MISTAKES_CJS = [
    ("data.setting=huge", r"data\.setting=huge: there are tiny, small, default"),
    ("task.train_load=[2,1]", r"task\.train_load=\[2\.0, 1\.0\]: give the least and the most"),
    ("task.train_load=[0,1]", r"task\.train_load\.0=0: give a number above 0"),
    ("data.executors=0", r"data\.executors=0: give a whole number from 1"),
    ("data.jobs=0", r"data\.jobs=0"),
    ("data.rate_per_ms=-1", r"data\.rate_per_ms=-1"),
    ("task.window=0", r"task\.window=0"),
    ("task.tokens=fused", r"task\.tokens='fused'"),
    ("+data.executor=3", r"data\.executor is not a key.*data\.executors"),
    ("experience.expert={abr: null}", r"experience\.expert has an entry for abr, but none for task=cjs"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES)
def test_a_mistake_is_named_as_it_was_typed(override, message):
    with pytest.raises(UserError, match=message):
        load_config(settings(override))


@pytest.mark.parametrize(("override", "message"), MISTAKES_CJS)
def test_a_mistake_of_cjs_is_named_as_it_was_typed(override, message):
    with pytest.raises(UserError, match=message):
        load_config(settings("task=cjs", override))


def test_several_mistakes_are_named_at_once():
    with pytest.raises(UserError) as error:
        load_config(settings("sparsity=2", "trainer.batch_size=0"))
    assert "sparsity=2" in str(error.value)
    assert "trainer.batch_size=0" in str(error.value)


def test_history_features_need_the_fused_token():
    with pytest.raises(UserError, match=r"task\.tokens=fused"):
        load_config(settings("task.tokens=per_feature", "task.features=history"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pruning.structure=2:4"], "type sparsity=0.5"),
        (["pruning.structure=3:6", "sparsity=0.5"], "inputs of layers.0.self_attn.q_proj cannot be divided by 6"),
        (
            ["pruning=sparsegpt", "pruning.structure=4:8", "sparsity=0.5", "pruning.method.block=12"],
            "pruning.method.block=12",
        ),
        (["pruning.calibration=text"], "model=tiny has no tokenizer"),
        (["pruning.structure=2:4", "sparsity=0.5", "pruning.allocation=owl"], "pruning.allocation=uniform"),
    ],
)
def test_pruning_that_does_not_fit_the_model_is_said_before_anything_is_learnt(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_pruning(load_config(settings("experiment=debug", *overrides)))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["export.values=fp16", "export.group=64"], "export.group=64 belongs to export.values=int8 or int4"),
        (["export.format=hf", "pruning.lora=prune_base_keep_adapter"], "pruning.lora=merge_then_prune"),
        (["export.format=[bundle,onnx]", "model.settings.model_type=stablelm"], "export.format=onnx: stablelm"),
    ],
)
def test_an_export_that_cannot_be_written_is_said_before_anything_is_learnt(overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        check_export(load_config(settings("experiment=debug", *overrides)))


@pytest.mark.parametrize("typed", ["export.format=hf", "export.format=[hf]"])
def test_one_format_needs_no_brackets(typed):
    export = load_config(settings(typed)).export
    assert (export.format, export.values, export.mask, export.compensate) == (["hf"], "int8", "auto", True)


def test_a_missing_compression_is_said_before_anything_is_learnt(monkeypatch):
    for name in ("backports", "backports.zstd", "compression.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"export\.compression=none"):
        check_export(load_config(settings("export.compression=zstd")))


def test_a_calibration_text_that_cannot_be_read_names_the_override(tmp_path):
    overrides = ["pruning.calibration=text", "model=smollm2", f"pruning.text={tmp_path}/none.txt"]
    with pytest.raises(UserError, match=r"pruning\.text="):
        check_pruning(load_config(settings(*overrides)))


def test_a_mistake_in_an_option_of_the_method_is_named_as_it_was_typed():
    with pytest.raises(UserError, match=r"pruning\.method\.block=0"):
        load_config(settings("pruning=sparsegpt", "pruning.method.block=0"))
    with pytest.raises(UserError, match=r"pruning\.method\.blok is not a key.*pruning\.method\.block"):
        load_config(settings("pruning=sparsegpt", "+pruning.method.blok=3"))


@pytest.mark.parametrize(
    ("override", "message"),
    [("trainer=fsdp", "type trainer=ddp"), ("pruning.lora=prune_base_keep_adapter", "adapter=lora")],
)
def test_what_needs_a_frozen_backbone_is_refused_with_all_of_it_trained(override, message):
    with pytest.raises(UserError, match=f"adapter=full.*{message}|{message}.*adapter=full"):
        load_config(settings("adapter=full", override))


def test_specialisation_would_fill_the_zeros_of_encoder_and_head():
    with pytest.raises(UserError, match=r"recovery=specialise.*pruning\.also"):
        load_config(settings("pruning.also=[encoder]", "recovery=specialise"))
