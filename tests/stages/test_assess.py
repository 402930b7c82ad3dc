"""What results call their data: other settings and other videos are other data."""

from __future__ import annotations

import pytest
from test_config import settings

from edgenetllm.stages.assess import _data_name


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
    assert _data_name(settings(*typed)["data"]) == name
