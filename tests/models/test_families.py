"""Architectures beyond those in conf: what transformers builds is either right from end to end or refused with a sentence."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from families import DENSE, EXPERTS, HYBRID, MAMBA, OTHER_KINDS, settings_of
from small import ARCHITECTURES, make_policy, make_task, prune_by_hooks
from transformers import AutoConfig, AutoModel

from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import PoolDataModule
from edgenetllm.experience.rollout import play
from edgenetllm.models.adapters import Lora, merge, sides_of
from edgenetllm.models.causal import new_cache, run_cached, run_whole
from edgenetllm.models.decoder import (
    block_matrices,
    block_zeros,
    blocks,
    build_decoder,
    linear_layers,
    other_matrices,
    prunable_layers,
)
from edgenetllm.models.hub import HubBackbone
from edgenetllm.models.policy import build_policy
from edgenetllm.models.session import Session
from edgenetllm.pruning.magnitude import Magnitude
from edgenetllm.pruning.oneshot import prune_module, zero_counts
from edgenetllm.pruning.options import Pruning
from edgenetllm.pruning.wanda import Wanda
from edgenetllm.stages.suitability import check_architecture

WORKING = [*DENSE, *EXPERTS, *HYBRID]


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    task = make_task()
    pool = collect(task, [PoolEntry("bba", 4)], seed=0, folder=tmp_path_factory.mktemp("pool"), workers=1)
    return PoolDataModule(
        {task.name: task}, {task.name: pool}, batch_size=2, batches_per_epoch=1, seed=0
    ).calibration_batches(4, batch_size=2)


@pytest.mark.parametrize("kind", WORKING)
def test_a_session_decides_as_the_whole_sequence_does(task, kind):
    """141 tokens, so that windows of 24 tokens are passed several times."""
    policy = make_policy(task, settings_of(kind))
    seen: list[torch.Tensor] = []
    decide = policy.head.decide

    def keep(hidden, observation, generator=None):
        seen.append(policy.head.logits(hidden, observation))
        return decide(hidden, observation, generator)

    policy.head.decide = keep  # type: ignore[method-assign]
    episodes = play(task.environment("val"), task.seeds("val"), Session(policy, 40.0, "test"), keep_observations=True)
    observation = {k: torch.from_numpy(np.asarray(v)).float() for k, v in episodes.observation.items()}
    with torch.inference_mode():
        wanted = torch.from_numpy(episodes.return_to_go).float()
        whole = policy.head.logits(policy.hidden(observation, wanted, torch.from_numpy(episodes.action)), observation)
    torch.testing.assert_close(torch.cat(seen, 1), whole, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", WORKING)
def test_a_policy_learns_and_is_found_suitable(task, batches, kind):
    check_architecture(settings_of(kind), None, [False])
    policy = make_policy(task, settings_of(kind)).train()
    policy.loss(batches[0], batches[0]["observation"]).backward()
    assert all(bool(p.grad.isfinite().all()) for p in policy.task_parameters().values() if p.grad is not None)
    assert all(p.grad is not None for p in policy.encoder.parameters())


@pytest.mark.parametrize("kind", list(DENSE))
def test_pruning_is_exact_over_all_block_weights_and_calibrates_on_what_the_blocks_see(task, batches, kind):
    """Against hooks on the whole model, which know nothing of masks or positions that differ between the blocks."""
    policy, slow = make_policy(task, settings_of(kind)), make_policy(task, settings_of(kind))
    assert not other_matrices(policy.decoder)
    report = prune_module(policy, Pruning(Wanda()), 0.5, batches, progress=False)
    weights, zeros = block_zeros(policy.decoder)
    assert weights == sum(p.numel() for p in blocks(policy.decoder).parameters() if p.ndim > 1)
    assert zeros == round(0.5 * weights) == sum(row.zeros for row in report)
    counts = {row.name: row.zeros for row in zero_counts(prunable_layers(policy.decoder))}
    prune_by_hooks(slow, batches, counts)
    differing = sum(
        int(((layer.weight == 0) ^ (prunable_layers(policy.decoder)[name].weight == 0)).sum())
        for name, layer in prunable_layers(slow.decoder).items()
    )
    assert differing <= 4  # ties that float sums in another order break otherwise


@pytest.mark.parametrize("kind", [*EXPERTS, *HYBRID])
def test_weights_that_pruning_does_not_reach_are_a_refusal_with_their_share(task, batches, kind):
    policy = make_policy(task, settings_of(kind))
    others, total = other_matrices(policy.decoder), block_zeros(policy.decoder)[0]
    share = sum(value.numel() for value in others.values()) / total
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    with pytest.raises(UserError, match=rf"sparsity=0\.4: {100 * share:.1f}% of the block weights.*sparsity=0,"):
        prune_module(policy, Pruning(Magnitude()), 0.4, batches, progress=False)
    assert prune_module(policy, Pruning(Magnitude()), 0.0, batches, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    with pytest.raises(UserError, match=r"adapter\.targets=all: .*of the block weights.*LoRA"):
        Lora(rank=2).attach(policy.decoder, seed=0)


ATTENTION = {  # by hand, from the papers: a matrix of attention has one of these in its name
    "query_key_value", "attention.dense", "self_attention.dense", "self_attn.dense", "q_proj", "k_proj", "v_proj", "o_proj",
    "out_proj", "qkv_proj", "Wqkv", "c_attn", "attn.c_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj",
}  # fmt: skip


@pytest.mark.parametrize("kind", [*ARCHITECTURES, *DENSE])
@pytest.mark.parametrize("targets", ["attention", "mlp"])
def test_adapters_go_where_they_are_wanted_and_merge(kind, targets):
    settings = dict(ARCHITECTURES.get(kind) or settings_of(kind))
    torch.manual_seed(0)
    decoder = build_decoder(settings).eval()
    layers = set(linear_layers(decoder))
    attention = {name for name in layers if any(name.endswith(part) for part in ATTENTION)}
    Lora(rank=2, targets=targets).attach(decoder, seed=0)
    adapted = {n.split(".lora_A")[0] for n, _ in decoder.named_parameters() if "lora_A" in n}
    assert adapted == (attention if targets == "attention" else layers - attention)
    assert adapted
    for name, parameter in decoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    tokens = torch.randn(1, 7, 16 if kind == "opt" else 32)
    with torch.no_grad():
        before = run_whole(decoder, tokens, None)
        merge(decoder)
        torch.testing.assert_close(run_whole(decoder, tokens, None), before, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "gpt_oss", "deepseek_v3"])
def test_with_experts_attention_alone_can_have_adapters(kind):
    decoder = build_decoder(settings_of(kind))
    Lora(rank=2, targets="attention").attach(decoder, seed=0)
    adapted = {n.split(".lora_A")[0] for n, _ in decoder.named_parameters() if "lora_A" in n}
    assert adapted
    assert all(".self_attn." in name for name in adapted)
    with pytest.raises(UserError, match=r"adapter\.targets=mlp: .*experts\.gate_up_proj"):
        Lora(rank=2, targets="mlp").attach(build_decoder(settings_of(kind)), seed=0)


@pytest.mark.parametrize("settings", [settings_of("qwen3_next"), {"model_type": "mamba", **MAMBA}])
def test_a_mixer_that_is_no_attention_is_a_refusal(settings):
    with pytest.raises(UserError, match=r"adapter\.targets: .* neither attention nor MLP; type adapter\.targets=all"):
        Lora(rank=2, targets="attention").attach(build_decoder(settings), seed=0)


def test_experts_in_the_attention_belong_to_it():
    decoder = build_decoder(settings_of("jetmoe"))
    sides = sides_of(decoder, [*linear_layers(decoder), *other_matrices(decoder)])
    assert {name.split(".")[2] for name, side in sides.items() if side == "attention"} == {"self_attention"}
    assert {name.split(".")[2] for name, side in sides.items() if side == "mlp"} == {"mlp"}


@pytest.mark.parametrize("kind", list(OTHER_KINDS))
def test_other_kinds_of_models_are_a_sentence(kind):
    settings, reason = OTHER_KINDS[kind]
    with pytest.raises(UserError, match=reason):
        check_architecture({"model_type": kind, **settings}, None, [False])


@pytest.mark.parametrize("kind", ["bloom", "opt", "mamba", "qwen3_next"])
def test_a_window_that_an_architecture_cannot_have_is_a_sentence(kind):
    settings = (
        {"model_type": "mamba", **MAMBA} if kind == "mamba" else dict(ARCHITECTURES.get(kind) or settings_of(kind))
    )
    with pytest.raises(UserError, match=rf"{kind} cannot .*window of tokens"):
        check_architecture(settings, None, [True])


@pytest.mark.parametrize(
    "kind", ["gpt_neox", "falcon", "phi", "gemma2", "gemma3_text", "cohere2", "mistral", "mpt", "gpt_oss"]
)
def test_a_band_is_kept_whole_and_step_by_step(kind):
    settings = {**settings_of(kind), **({"sliding_window": 64} if "sliding_window" in settings_of(kind) else {})}
    check_architecture(settings, None, [True])
    torch.manual_seed(0)
    decoder, tokens = build_decoder(settings).eval(), torch.randn(2, 60, 32)
    with torch.no_grad():
        whole, cache = run_whole(decoder, tokens, 9), new_cache(decoder, 9)
        steps = torch.cat([run_cached(decoder, part, cache, 9) for part in tokens.split(3, 1)], 1)
        torch.testing.assert_close(steps, whole, atol=1e-4, rtol=1e-3)
        changed = tokens.clone()
        changed[:, :40] = 0
        last = run_whole(decoder, changed, 9)[:, -1]
    torch.testing.assert_close(last, whole[:, -1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["gemma2", "mistral"])
def test_a_sliding_window_shorter_than_the_tasks_is_refused(kind, monkeypatch):
    task = make_task()
    monkeypatch.setattr(type(task), "window", 12, raising=False)
    with pytest.raises(UserError, match=r"looks back over 36 tokens.* 24 \(sliding_window"):
        build_policy(build_decoder(settings_of(kind)), {task.name: task}, embedding_rms=1.0)


@pytest.mark.parametrize("kind", ["gpt_neo", "gemma2", "mixtral", "bloom"])
@pytest.mark.parametrize("layers", [None, 1])
def test_a_folder_gives_the_saved_model_and_its_configuration_builds_it_again(tmp_path, kind, layers):
    settings = settings_of(kind)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings, vocab_size=9)
    torch.manual_seed(0)
    saved = AutoModel.from_config(config).eval()
    saved.save_pretrained(tmp_path)
    source = HubBackbone("mine", str(tmp_path), layers=layers)
    source.check_files()
    backbone = source.load()
    again = build_decoder(backbone.decoder.config.to_dict())  # as a bundle's manifest holds it
    assert set(again.state_dict()) == set(backbone.decoder.state_dict())
    assert len(blocks(again)) == (layers or 2)
    theirs = dict(saved.named_parameters())
    for name, value in block_matrices(backbone.decoder).items():
        torch.testing.assert_close(value, theirs[name], atol=0, rtol=0)
    if layers is None and kind != "mixtral":
        tokens = torch.tensor([[3, 4, 5, 6]])
        embedded = source._pretrained(None).get_input_embeddings()(tokens)
        ours = run_whole(backbone.decoder.eval(), embedded, None)
        torch.testing.assert_close(ours, saved(input_ids=tokens).last_hidden_state, atol=1e-5, rtol=1e-4)
        assert backbone.embedding_rms == pytest.approx(
            float(saved.get_input_embeddings()(torch.arange(9)).detach().pow(2).mean().sqrt())
        )


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "mxfp4", "fp8"])
def test_quantised_weights_are_refused_by_name(tmp_path, method):
    settings = dict(ARCHITECTURES["llama"])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings, vocab_size=9)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    stored["quantization_config"] = {"quant_method": method, "bits": 4, "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    source = HubBackbone("mine", str(tmp_path))
    for call in (source.architecture, source.check_files, source.load):
        with pytest.raises(UserError, match=rf"model=mine: .*quantised \({method}\).*model\.path"):
            call()
