"""Matrices without any zero and of nothing but zeros, in every form, as they are and as GPT-2 has them (in, out)."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from variants import TASKS, export, make

import edgenetllm.edge as edge
from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.compensate import compensated
from edgenetllm.edge.encoding import MaskForm, Values, form_of, largest_integer
from edgenetllm.edge.engine import load_whole_policy
from edgenetllm.edge.engines.compiled import CompiledEngine
from edgenetllm.models.decoder import prunable_layers, weight_out_in


@pytest.mark.parametrize("mask", get_args(MaskForm))
@pytest.mark.parametrize("values", get_args(Values))
def test_no_zeros_and_nothing_else_travel_and_decide(values, mask, tmp_path):
    task = TASKS["fused"]()
    policy = make(task, architecture="gpt2")
    layers = prunable_layers(policy.decoder)
    empty = sorted(layers)[::2]  # transposed ones and others of every block
    with torch.no_grad():
        for name in empty:
            layers[name].weight.zero_()
    folder = export(policy, tmp_path / "bundle", values=values, mask=mask)
    manifest = read_bundle(folder).manifest
    assert {name for name, counts in manifest.sparsity.items() if counts.zeros} == {
        f"decoder.{name}.weight" for name in empty
    }
    back = load_whole_policy(folder, {"abr": task}).state_dict()
    for name, layer in layers.items():
        weight = weight_out_in(layer)
        loaded = back[f"decoder.{name}.weight"].T  # GPT-2's
        assert torch.equal(loaded == 0, weight == 0)
        assert (loaded - weight).norm() <= {"int4": 0.2, "int8": 0.02}.get(values, 0.01) * weight.norm()
    # Both ways to load it decide the same.
    observation = task.environment("test").reset(np.arange(3))
    here, there = edge.load(folder).start(3), CompiledEngine().load(folder, task)
    there.start(3)
    np.testing.assert_array_equal(here.decide(observation), there.decide(observation))


@pytest.mark.parametrize("values", ["int8", "int4"])
@pytest.mark.parametrize("zeros", [0.0, 1.0])
def test_compensation_keeps_the_zeros_of_matrices_with_none_or_all(values, zeros):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 10)).astype(np.float32) * (1 - zeros)
    inputs = rng.standard_normal((40, 10)).astype(np.float32)
    inputs[:, 3] = 0  # an input that calibration never sees
    form = form_of(weight, values, "auto", None)
    found = compensated(torch.from_numpy(weight), torch.from_numpy(inputs.T @ inputs), form)
    np.testing.assert_array_equal(found.values == 0, weight == 0)
    assert np.abs(found.values).max() <= largest_integer(form, int((weight == 0).sum()))
    if not zeros:
        assert np.abs(inputs @ (found.dense() - weight).T).mean() < 0.1 * np.abs(inputs @ weight.T).mean()
