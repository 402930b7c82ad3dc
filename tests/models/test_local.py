"""A model in a folder: what is broken is named by file before anything is read, and what determines it identifies it."""

from __future__ import annotations

import json
import shutil
import time

import pytest
import torch
from families import settings_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import ARCHITECTURES
from transformers import AutoConfig, AutoModelForCausalLM

from edgenetllm.errors import UserError
from edgenetllm.models import local
from edgenetllm.models.hub import HubBackbone


def save(folder, settings: dict, shards: str = "50GB") -> HubBackbone:
    settings = dict(settings)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings, vocab_size=50)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size=shards)
    return HubBackbone("llama2", str(folder))


@pytest.fixture
def sharded(tmp_path) -> HubBackbone:
    source = save(tmp_path / "tinyllama", ARCHITECTURES["llama"], "40KB")
    assert len(list((tmp_path / "tinyllama").glob("*.safetensors"))) > 2
    source.check_files()
    return source


def shard(source: HubBackbone, number: int = 1):
    return sorted(source._folder.glob("*.safetensors"))[number]


@pytest.mark.parametrize("kind", ["gpt2", "opt", "qwen2"])
def test_whole_files_pass(tmp_path, kind):
    save(tmp_path, ARCHITECTURES[kind]).check_files()


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "deepseek_v3", "bloom", "falcon"])
def test_files_pass_whose_tensors_have_other_names_or_are_put_together(tmp_path, kind):
    save(tmp_path, settings_of(kind), "20KB").check_files()


def test_a_file_that_is_cut_off_is_named(sharded):
    path = shard(sharded)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(UserError, match=rf"model=llama2: .*{path.name} is incomplete"):
        sharded.check_files()
    with pytest.raises(UserError, match=path.name):
        sharded.load()


@pytest.mark.parametrize("data", [b"", b"abc", b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 99\n"])
def test_a_file_that_is_none_is_named(sharded, data):
    shard(sharded).write_bytes(data)
    with pytest.raises(UserError, match=shard(sharded).name):
        sharded.check_files()


def test_a_file_that_is_not_there_is_named(sharded):
    path = shard(sharded)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name} does not exist, and model\.safetensors\.index\.json names it"):
        sharded.check_files()
    with pytest.raises(UserError, match=path.name):
        sharded.fingerprint()


def test_an_index_that_is_broken_is_named(sharded):
    (sharded._folder / local.INDEX_FILE).write_text("{")
    with pytest.raises(UserError, match=r"index\.json: not a readable index"):
        sharded.check_files()


def test_a_tensor_that_is_not_where_the_index_says_is_named(sharded):
    path = shard(sharded)
    tensors = load_file(path)
    name, _ = tensors.popitem()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{path.name} lacks the tensor {name}"):
        sharded.check_files()


def test_a_tensor_that_nothing_has_is_named(tmp_path):
    source = save(tmp_path, ARCHITECTURES["gpt2"])
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        UserError, match=r"model\.safetensors lacks 1 tensors of the model, such as \['h\.1\.mlp\.c_fc\.weight'\]"
    ):
        source.check_files()


def test_an_expert_that_is_missing_is_a_sentence(tmp_path):
    source = save(tmp_path, settings_of("mixtral"))
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors[next(name for name in tensors if "experts.1" in name)]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="tensors are missing or have other shapes"):
        source.check_files()


def test_a_tensor_of_another_shape_is_named(sharded):
    file = sharded._folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(
        UserError, match=r"model-0000\d-of-0000\d\.safetensors: layers\.0\.mlp.* is \(.*64.* makes it \(.*48"
    ):
        sharded.check_files()


def test_checking_reads_headers_alone(tmp_path, monkeypatch):
    source = save(tmp_path, ARCHITECTURES["llama"])
    monkeypatch.setattr("edgenetllm.models.local.sha256_of", lambda path: pytest.fail("read"))
    began = time.perf_counter()
    source.check_files()
    assert time.perf_counter() - began < 5
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert local.header(tmp_path / "model.safetensors") == {
            name: tuple(file.get_slice(name).get_shape())
            for name in file.keys()  # noqa: SIM118
        }


@pytest.mark.parametrize(
    ("key", "value"), [("rms_norm_eps", 1e-3), ("rope_parameters", {"rope_type": "default", "rope_theta": 500000.0})]
)
def test_another_config_is_another_model(sharded, key, value):
    before, identity = sharded.fingerprint(), sharded.load().identity
    file = sharded._folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    assert sharded.fingerprint() != before
    assert sharded.load().identity != identity


def test_one_changed_weight_is_another_model_also_with_the_old_time(sharded):
    before, path = sharded.fingerprint(), shard(sharded)
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    import os

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sharded.fingerprint() != before


def test_what_does_not_determine_the_model_does_not_identify_it(sharded, tmp_path):
    before = sharded.fingerprint()
    (sharded._folder / "generation_config.json").write_text("{}")
    (sharded._folder / "README.md").write_text("hello")
    (sharded._folder / "consolidated.safetensors").write_bytes(b"not read")
    assert sharded.fingerprint() == before
    shutil.copytree(sharded._folder, tmp_path / "copy")
    assert HubBackbone("mistral", str(tmp_path / "copy")).fingerprint() == before


def test_weights_are_hashed_once_in_a_process(sharded, monkeypatch):
    calls = []
    original = local.sha256_of
    monkeypatch.setattr(local, "sha256_of", lambda path: calls.append(path) or original(path))
    for _ in range(3):
        sharded.fingerprint()
    assert len(calls) == len(set(calls))
