"""The converted backbone in the cache: made once, and made again where its files are not those that were made."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter

from edgenetllm.files import sha256_of
from edgenetllm.models.wheel import WheelBackbone

WIDTH, HIDDEN, HEADS, WORDS = 32, 64, 4, 20


def write_gguf(path: Path) -> None:
    """A Llama of one block with random weights, as llama.cpp stores it."""
    random = np.random.default_rng(0)
    writer = GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(WORDS)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"w{number}" for number in range(WORDS)])
    shapes = {
        "token_embd": (WORDS, WIDTH), "output_norm": (WIDTH,), "blk.0.attn_norm": (WIDTH,), "blk.0.ffn_norm": (WIDTH,),
        "blk.0.ffn_gate": (HIDDEN, WIDTH), "blk.0.ffn_up": (HIDDEN, WIDTH), "blk.0.ffn_down": (WIDTH, HIDDEN),
        **{f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def source(tmp_path) -> WheelBackbone:
    write_gguf(tmp_path / "mini.gguf")
    wheel = tmp_path / "cache" / "mini-0.1-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "mini.gguf", "mini/mini.gguf")
    return WheelBackbone("mini", "mini", "0.1", sha256_of(wheel), "mini/mini.gguf", tmp_path / "cache")


def converted(source: WheelBackbone) -> Path:
    (folder,) = (path for path in source.folder.glob("mini-*") if path.is_dir())
    return folder


def test_it_is_converted_once_and_identified_by_the_wheel(source, capsys):
    first = source.load()
    assert "converting mini/mini.gguf" in capsys.readouterr().out
    assert first.identity == {"name": "mini", "hash": source.sha256, "layers": 1}
    source.load()
    assert capsys.readouterr().out == ""
    assert source.label == "mini"


def flip(folder: Path) -> None:
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-3] ^= 64
    (folder / "model.safetensors").write_bytes(data)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def edit(folder: Path) -> None:
    facts = json.loads((folder / "backbone.json").read_text())
    (folder / "backbone.json").write_text(json.dumps({**facts, "embedding_rms": 7.0}))


def older(folder: Path) -> None:
    """As an earlier version left it, without hashes."""
    facts = json.loads((folder / "backbone.json").read_text())
    del facts["sha256"]
    (folder / "backbone.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    "harm",
    [
        flip,
        cut,
        edit,
        older,
        lambda f: (f / "model.safetensors").unlink(),
        lambda f: (f / "backbone.json").write_text("{"),
    ],
)
def test_what_is_not_as_it_was_made_is_made_again(source, capsys, harm):
    first = source.load()
    harm(converted(source))
    capsys.readouterr()
    again = source.load()
    printed = capsys.readouterr().err
    assert "is not as it was made: converting again" in printed
    assert again.embedding_rms == first.embedding_rms
    for name, tensor in first.decoder.state_dict().items():
        assert torch.equal(tensor, again.decoder.state_dict()[name]), name
