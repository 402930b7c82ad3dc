"""Models as a user types them: named by their folder, and what does not suit is said before a pool is collected."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
import torch
from families import EXPERTS, settings_of
from small import ARCHITECTURES
from transformers import AutoConfig, AutoModelForCausalLM
from typed import ABR, call, command, runs, surroundings

LLAMA2 = [*ABR, "model=llama2", "model.layers=1"]


def save(folder: Path, settings: dict) -> Path:
    settings = dict(settings)
    torch.manual_seed(0)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings, vocab_size=50)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_model_in_a_folder_goes_by_its_name_and_another_config_is_adapted_again(tmp_path):
    folder = save(tmp_path / "tinyllama", ARCHITECTURES["llama"])
    arguments = [*LLAMA2, f"model.path={folder}", "sparsity=0.5"]
    output = call("train.py", tmp_path, *arguments)
    assert "model: tinyllama, the first 1 decoder blocks" in output
    assert "block weights are zero (50.00%)" in output
    (run,) = runs(tmp_path, "train")
    assert "-tinyllama-" in run.name
    results = json.loads((run / "abr/results.json").read_text())
    assert results["model"] == "tinyllama"
    assert results["pruning"]["block_weights"] == 2 * results["pruning"]["block_zeros"] > 0
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["backbone"]["name"] == "tinyllama"
    assert "adaptation: found" in call("train.py", tmp_path, *arguments)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "rms_norm_eps": 0.1}))
    assert "adaptation: found" not in call("train.py", tmp_path, *arguments)


@pytest.mark.parametrize(
    ("kind", "arguments", "sentence"),
    [
        ("mixtral", ["adapter.targets=attention"], "of the block weights are in no linear layer"),
        ("mixtral", ["sparsity=0"], "adapter.targets=all: "),
        ("gpt_oss", ["sparsity=0", "adapter.targets=mlp"], "adapter.targets=mlp: "),
    ],
)
def test_what_pruning_or_adapters_would_leave_out_is_refused(tmp_path, kind, arguments, sentence):
    assert kind in EXPERTS
    folder = save(tmp_path / kind, settings_of(kind))
    typed = ["model=mistral", f"model.path={folder}", "engine=torch", *arguments]
    output = call("train.py", tmp_path, *ABR, *typed, ok=False)
    assert sentence in output
    assert "Traceback" not in output
    assert not (tmp_path / "cache" / "pools").exists()


@pytest.mark.slow
def test_a_mixture_of_experts_is_adapted_without_pruning(tmp_path):
    folder = save(tmp_path / "mixture", settings_of("mixtral"))
    arguments = ["model=mistral", f"model.path={folder}", "sparsity=0", "adapter.targets=attention", "engine=torch"]
    output = call("train.py", tmp_path, *ABR, *arguments)
    assert "pruning: 0 of " in output


def test_a_broken_file_is_named_before_a_pool_is_collected(tmp_path):
    folder = save(tmp_path / "tinyllama", ARCHITECTURES["llama"])
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    for more in ([], ["dry_run=true"]):
        output = call("train.py", tmp_path, *LLAMA2, f"model.path={folder}", *more, ok=False)
        assert "model.safetensors is incomplete" in output
        assert "Traceback" not in output
    assert not (tmp_path / "cache" / "pools").exists()


@pytest.mark.slow
def test_a_hub_that_is_away_is_said_within_ten_seconds(tmp_path):
    environment = {**surroundings(), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    del environment["HF_HUB_OFFLINE"]
    imports = time.perf_counter()
    subprocess.run(command("train.py", tmp_path, "experiment=debug", "dry_run=true"), env=environment, check=True)
    imports = time.perf_counter() - imports
    began = time.perf_counter()
    result = subprocess.run(
        command("train.py", tmp_path, "model=llama2"), env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "model.path=/folder/of/llama2" in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert time.perf_counter() - began < imports + 10
