"""Names that public code and saved runs rely on stay."""

from __future__ import annotations

from importlib import import_module

import pytest

from edgenetllm.moved import MOVED, current

CLASSES = {
    "abr": ("Public", "Folder", "Synthetic"),
    "cjs": ("Tpch", "Folder", "SyntheticDags"),
}


@pytest.mark.parametrize("task", ["abr", "cjs"])
def test_both_simulators_keep_their_public_name(task):
    assert callable(import_module(f"edgenetllm.tasks.{task}.simulator").play)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt", "alps"])
def test_pruning_methods_keep_their_public_names(method):
    assert callable(import_module(f"edgenetllm.pruning.{method}").prune)


@pytest.mark.parametrize("task", ["abr", "cjs"])
def test_targets_of_earlier_runs_are_found(task):
    names = [f"edgenetllm.tasks.{task}.datasets.{name}" for name in CLASSES[task]]
    names.append(f"edgenetllm.tasks.{task}.improvement.Improvement")
    for name in names:
        node = current({"deep": [{"_target_": name, "name": name}]})["deep"][0]
        assert node["name"] == name  # only targets are renamed
        module, _, cls = node["_target_"].rpartition(".")
        assert isinstance(getattr(import_module(module), cls), type)


def test_no_new_name_is_an_old_one():
    assert not any(new.startswith(old) for new in MOVED.values() for old in MOVED)
