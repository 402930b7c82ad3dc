"""Names of data and model in results: other settings and videos are other data, other weights and choices another model."""

from __future__ import annotations

import pytest
from test_config import settings

from edgenetllm.stages.evaluation import data_name, model_name


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        (["data=fcc"], "fcc"),
        (["data=fcc", "data.video=video2"], "fcc/video2"),
        (["data=synthetic"], "synthetic"),
        (["task=cjs", "data=tpch", "data.setting=small"], "tpch/small"),
    ],
)
def test_data_is_named_by_what_sets_it_apart(typed, name):
    assert data_name(settings(*typed)["data"]) == name


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ([], "smollm2"),
        (["ablation=random"], "smollm2-random"),
        (["experience.fraction=0.01"], "smollm2 on 1% of the pool"),
        (["evaluation.sample=true"], "smollm2, sampled"),
    ],
)
def test_a_model_is_named_by_what_sets_it_apart(typed, name):
    assert model_name(settings(*typed)) == name
