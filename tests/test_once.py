"""Work is never done twice, also not by two processes that want the same at the same time."""

from __future__ import annotations

import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file
from small import ARCHITECTURES, ROOT
from transformers import AutoConfig, AutoModel
from typed import surroundings

from edgenetllm.models.backbone import HubBackbone
from edgenetllm.report.results import Results
from edgenetllm.stored_arrays import arrays_once


@pytest.mark.slow
def test_two_runs_of_the_same_at_once_learn_and_play_it_once(tmp_path):
    arguments = ["experiment=debug", "trainer.threads=1", "callbacks.progress_bar=false", "evaluation.plots=false"]
    arguments += ["data.val=6", "data.test=8"]
    paths = [f"paths.log_dir={tmp_path}/logs", f"paths.cache_dir={tmp_path}/cache"]
    command = [sys.executable, str(ROOT / "train.py"), *arguments, *paths]
    started = [
        subprocess.Popen(command, cwd=tmp_path, env=surroundings(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=500)[0].decode() for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert sum("adaptation: found" in output for output in outputs) == 1
    runs = sorted((tmp_path / "logs" / "train").glob("*"))
    assert sum((run / "checkpoints").exists() for run in runs) == 1
    first, second = (Results.load(run / "abr/results.json") for run in runs)
    assert first.policies == second.policies
    for kind in ("pools", "adaptations"):
        assert len([path for path in (tmp_path / "cache" / kind).iterdir() if path.suffix != ".lock"]) == 1


def test_arrays_are_computed_once_and_whole(tmp_path):
    path, calls = tmp_path / "bounds" / "a.npz", []

    def compute():
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return {"x/y": [1.0, 2.0]}

    with pytest.raises(KeyboardInterrupt):
        arrays_once(path, compute, "bounds")
    assert not path.exists()
    for _ in range(2):
        assert arrays_once(path, compute, "bounds")["x/y"].tolist() == [1.0, 2.0]
    assert len(calls) == 2


def test_other_weights_in_the_same_folder_are_another_backbone(tmp_path):
    settings = dict(ARCHITECTURES["llama"])
    AutoModel.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings, vocab_size=9)).save_pretrained(
        tmp_path
    )
    source = HubBackbone("mine", str(tmp_path))
    before = source.fingerprint()
    assert HubBackbone("mine", str(tmp_path)).fingerprint() == before
    path = tmp_path / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    assert source.fingerprint() != before
