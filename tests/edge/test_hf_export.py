"""A checkpoint that transformers loads holds the numbers of the bundle, and computes the same hidden states."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from small import make_policy
from transformers import AutoModel

from edgenetllm.edge.engine import load_policy
from edgenetllm.edge.export import export_policy, policy_name
from edgenetllm.edge.hf_export import TASKS_FILE, export_hf
from edgenetllm.errors import UserError
from edgenetllm.models.adapters import Lora
from edgenetllm.models.decoder import bare, prunable_layers, width


def export(policy, folder, **changes):
    for layer in prunable_layers(policy.decoder).values():
        layer.weight.data[torch.rand_like(layer.weight) < 0.4] = 0
    names = [policy_name(name) for name in prunable_layers(policy.decoder)]
    options = {"adapter": None, "target_returns": {"abr": 1.0}, "parent": {}, **changes}
    export_policy(policy, folder / "bundle", matrices=names, **options)


def test_transformers_loads_what_the_bundle_holds(task, tmp_path, architecture):
    export(make_policy(task, architecture), tmp_path)
    sizes = export_hf(tmp_path / "bundle", tmp_path / "hf")
    assert sizes["bytes"] == sum(path.stat().st_size for path in (tmp_path / "hf").iterdir())
    policy, _ = load_policy(tmp_path / "bundle", task)
    model, loading = AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(loading.values()), loading
    for name, value in policy.decoder.state_dict().items():
        assert torch.equal(value, bare(model).state_dict()[name])
    embeds = torch.randn(2, 5, width(policy.decoder))
    with torch.no_grad():
        expected = policy.decoder(inputs_embeds=embeds).last_hidden_state
        assert torch.allclose(model.eval()(inputs_embeds=embeds).last_hidden_state, expected, atol=1e-5)
    tasks = load_file(tmp_path / "hf" / TASKS_FILE)
    assert tasks.keys() == policy.task_parameters().keys()
    assert all(torch.equal(value, policy.state_dict()[name]) for name, value in tasks.items())


def test_an_adapter_apart_is_refused(task, tmp_path, architecture):
    policy, adapter = make_policy(task, architecture), Lora(rank=2)
    adapter.attach(policy.decoder, seed=0)
    export(policy, tmp_path, adapter=adapter)
    with pytest.raises(UserError, match=r"pruning\.lora=merge_then_prune"):
        export_hf(tmp_path / "bundle", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
