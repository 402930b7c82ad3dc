"""A manifest that was edited on purpose gives a policy that decides or a UserError."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small import ARCHITECTURES
from test_observation import GOOD
from variants import TASKS, export, make

import edgenetllm.edge as edge
from edgenetllm.edge.bundle import read_bundle
from edgenetllm.edge.compiled.decoder import CompiledDecoder
from edgenetllm.errors import UserError
from edgenetllm.models.decoder import build_decoder

JUNK: list[Any] = [
    None, True, -1, 0, 3, 1.5, -0.5, 1e300, 1e-300, 1 << 40, 10**400, "", "x", "choice", [], {}, [1], [[1, 2]], [-1.0, 0.0],
    ["full_attention"], {"a": 1}, {"rope_type": []}, {"rope_type": "llama3", "factor": 10**400}, {"rope_theta": "x"},
    {"kind": "vector"}, {"kind": "vector", "scales": {"x": [0]}, "action": "choice", "actions": 6},
    {"kind": "gaussian", "size": 6}, {"kind": "choice", "choices": 10**400}, {"kind": "cjs_pointer"}, "\ud800",
]  # fmt: skip


def places(value: Any, at: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield at
    for key, child in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(child, (*at, key))


@pytest.mark.parametrize(
    ("architecture", "every"),
    [
        ("llama3", 15),
        pytest.param("llama3", 1, marks=pytest.mark.slow),
        pytest.param("gpt2", 1, marks=pytest.mark.slow),
    ],
)
def test_any_field_of_a_manifest_decides_or_is_refused(architecture, every, tmp_path, monkeypatch):
    folder = export(make(TASKS["fused"](), architecture=architecture), tmp_path / "bundle")
    bundle = read_bundle(folder)
    original = {"model": bundle.manifest.model, "extra": bundle.manifest.extra, "task": "abr"}
    refused = 0
    for number, place in enumerate(place for place in places(original, ()) if place):
        for junk in JUNK[number % every :: every]:
            fields = copy.deepcopy(original)
            inner: Any = fields
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = junk
            try:
                edited = replace(bundle, manifest=replace(bundle.manifest, **fields))
                monkeypatch.setattr("edgenetllm.edge.bundle.read_bundle", lambda *_, found=edited, **__: found)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    session = edge.load(folder).start()
                    for _ in range(2):
                        assert session.decide(GOOD) in range(6)
                        session.observe(1.0)
            except UserError:
                refused += 1
            except ValueError as error:
                if not re.search(
                    "not an object|format or task", str(error)
                ):  # Manifest's own, which from_bytes catches
                    raise
    assert refused > 200 / every


def test_networks_that_do_not_go_together_are_refused(tmp_path):
    """A head with more choices than the encoder has tokens for: both fit their weights."""
    policy = make(TASKS["fused"]())
    head = policy.networks("abr").head
    head.linear = torch.nn.Linear(head.linear.in_features, 9)
    folder = export(policy, tmp_path / "bundle")
    with pytest.raises(UserError, match=r"decides \('a choice of', 9\), its encoder takes \('a choice of', 6\)"):
        edge.load(folder)


def test_rewards_and_whole_numbers_that_are_none_are_refused(tmp_path):
    session = edge.load(export(make(TASKS["fused"]()), tmp_path / "bundle")).start()
    for reward in ([[1.0], [1.0, 2.0]], "1", 1e300, 10**30, None, [], {"a": 1}):
        with pytest.raises(UserError, match="reward is"):
            session.observe(reward)
    for level in (np.uint64(2**64 - 1), 2**63, 10**30, 1e18):
        with pytest.raises(UserError, match="last_quality"):
            session.decide(GOOD | {"last_quality": level})
    assert session.decide(GOOD) in range(6)


def test_caches_that_fit_no_memory_are_refused():
    decoder = build_decoder(dict(ARCHITECTURES["llama"]))
    weights = {name: tensor.numpy() for name, tensor in decoder.state_dict().items()}
    compiled = CompiledDecoder(decoder.config.to_dict(), weights)
    with pytest.raises(UserError, match="no memory for the caches"):
        compiled.start(1, capacity=10, band=1 << 50)
    with pytest.raises(UserError, match="are too few for 100000 blocks"):
        CompiledDecoder(decoder.config.to_dict() | {"num_hidden_layers": 100_000}, weights)
