"""Names that public code and saved runs rely on stay."""

from __future__ import annotations

from importlib import import_module

import pytest

from edgenetllm.moved import current, current_choices

CLASSES = {
    "abr": ("datasets.Public", "datasets.Folder", "datasets.Synthetic", "improvement.Improvement"),
    "cjs": ("datasets.Tpch", "datasets.Folder", "datasets.SyntheticDags", "improvement.Improvement"),
}


@pytest.mark.parametrize("task", ["abr", "cjs"])
def test_both_simulators_keep_their_public_name(task):
    assert callable(import_module(f"edgenetllm.tasks.{task}.simulator").play)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "alps"])
def test_pruning_methods_keep_their_public_names(method):
    assert callable(import_module(f"edgenetllm.pruning.{method}").prune)


@pytest.mark.parametrize("task", ["abr", "cjs"])
def test_targets_of_earlier_runs_are_found(task):
    for name in CLASSES[task]:
        earlier = f"edgenetllm.tasks.{task}.{name}"
        node = current({"deep": [{"_target_": earlier, "name": earlier}]})["deep"][0]
        assert node["name"] == earlier  # only targets are renamed
        module, _, cls = node["_target_"].rpartition(".")
        assert isinstance(getattr(import_module(module), cls), type)


def test_the_expert_of_earlier_runs_is_found():
    share = {"policy": "improved", "episodes": 3}
    assert current({"experience": {"name": "iterated", "improvement": None, "shares": [share]}})["experience"] == {
        "name": "expert", "expert": None, "shares": [{"policy": "expert", "episodes": 3}],
    }  # fmt: skip
    both = {"abr": [share], "cjs": [{"policy": "teacher", "episodes": 2}]}
    shares = current({"experience": {"improvement": {"abr": {}}, "shares": both}})["experience"]["shares"]
    assert [entry["policy"] for own in shares.values() for entry in own] == ["expert", "teacher"]
    assert current_choices({"experience": "iterated", "data": "iterated"}) == {
        "experience": "expert",
        "data": "iterated",
    }
