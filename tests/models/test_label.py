"""A model is called by its folder or repository, whatever preset it was typed with."""

from __future__ import annotations

import pytest
import torch
import yaml
from small import ARCHITECTURES, ROOT
from transformers import AutoConfig, AutoModel

from edgenetllm.errors import UserError
from edgenetllm.models.hub import HubBackbone
from edgenetllm.models.label import model_label

PRESETS = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "conf/model").glob("*.yaml")}


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("/models/tinyllama", "tinyllama"),
        ("/models/tinyllama/", "tinyllama"),
        ("~/models/My Llama (v2)", "My-Llama-v2"),
        ("Qwen/Qwen2.5-7B", "Qwen2.5-7B"),
        ("gpt2", "gpt2"),
        ("../_hidden", "hidden"),
        ("/home/x/.cache/huggingface/hub/models--meta-llama--Llama-2-7b-hf/snapshots/01c7f73d771d", "Llama-2-7b-hf"),
        ("/models/模型-7B", "7B"),
    ],
)
def test_a_path_gives_the_label(path, label):
    assert model_label({**PRESETS["llama2"], "path": path}) == label
    assert HubBackbone("llama2", path).label == label


def test_presets():
    labels = {name: model_label(settings) for name, settings in PRESETS.items()}
    assert labels["llama2"] == "Llama-2-7b-hf"
    assert labels["qwen2_5"] == "Qwen2.5-0.5B"
    assert {name: labels[name] for name in ("tiny", "smollm2", "small_transformer")} == {
        "tiny": "tiny",
        "smollm2": "smollm2",
        "small_transformer": "small_transformer",
    }


def test_the_folder_that_one_is_in_has_a_name(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert model_label({"path": "."}) == "mine"


@pytest.mark.parametrize("settings", [{"path": "/models/模型"}, {"name": "///"}])
def test_a_name_without_a_letter_is_refused(settings):
    with pytest.raises(UserError, match=r"a model needs a name"):
        model_label(settings)


def test_no_label_leaves_its_folder():
    assert model_label({"name": "../../x"}) == "x"


def test_checkpoints_carry_the_label(tmp_path):
    settings = dict(ARCHITECTURES["llama"])
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings, vocab_size=9)).save_pretrained(
        tmp_path / "tinyllama"
    )
    assert HubBackbone("llama2", str(tmp_path / "tinyllama")).load().identity["name"] == "tinyllama"
