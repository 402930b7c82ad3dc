"""`placement=` as a user types it, on the tiny model."""

from __future__ import annotations

import json
import re

import pytest
from test_config import settings
from typed import call, runs

from edgenetllm.affects import options_for
from edgenetllm.config import Config, load_config
from edgenetllm.errors import UserError
from edgenetllm.report.results import Results
from edgenetllm.stages.placed import check_placement


@pytest.fixture
def link(tmp_path):
    """A data folder with one trace of a link."""
    (tmp_path / "data" / "mine").mkdir(parents=True)
    rows = "".join(f"{second} {1 + second % 5}\n" for second in range(60))
    (tmp_path / "data" / "mine" / "one").write_text(rows)
    return f"paths.data_dir={tmp_path / 'data'}", "placement.traces=mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("placement=cloud", "placement.loss=0.9"), "placement.loss=0.9: give a number from 0 to 0.5"),
        (("placement=split", "placement.rtt_ms=[50,50]"), "name each round trip time once"),
        (("placement=adaptive", "placement.ask=sometimes"), "placement.ask='sometimes'"),
        (("placement=none", "+placement.rtt_ms=5"), "placement.rtt_ms"),
        (("placement=cloud", "+placement.rtt=5"), "placement.rtt"),
        (("task.clock=slow",), "task.clock='slow'"),
    ],
)
def test_what_makes_no_sense_is_refused(words, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(settings("task=abr", *words))


def test_traces_that_are_not_there_are_said_before_anything_starts(tmp_path):
    config = load_config(settings("placement=cloud", "placement.traces=nowhere", f"paths.data_dir={tmp_path}"))
    with pytest.raises(UserError, match=r"placement.traces=nowhere: there is no folder"):
        check_placement(config)


def test_the_default_is_no_placement_and_pools_do_not_depend_on_it():
    plain, cloud = (load_config(settings("task=cjs", *words)) for words in ((), ("placement=cloud",)))
    assert plain.placement.rtts_ms == []
    for stage in ("pool", "adaptation", "pruning"):
        assert options_for(stage, plain.settings, Config) == options_for(stage, cloud.settings, Config)
    assert options_for("evaluation", plain.settings, Config) != options_for("evaluation", cloud.settings, Config)


@pytest.mark.slow
def test_a_sweep_compares_placements(trained, link):
    """Four jobs of one bundle: their rows, a table, a plot, and identities that keep them apart."""
    parent = runs(trained, "train")[0]
    words = (
        "task.clock=real",
        "placement.rtt_ms=[0,200]",
        "placement.cloud_ms=3",
        "placement.edge_ms=1",
        "data.test=4",
        "evaluation.bounds=false",
    )
    call("evaluate.py", trained, "-m", f"run={parent}", "sweep=placement", *words, *link, "logger=csv")
    sweep = sorted((trained / "logs" / "multirun").iterdir())[-1]
    results = [Results.load(path) for path in sorted(sweep.glob("*/abr/results.json"))]
    by_name = {one.placement.name: one for one in results}
    assert set(by_name) == {"edge", "cloud", "split", "adaptive"}
    assert by_name["edge"].placement.rows["edge"].latency_ms.median == 1
    for name in ("cloud", "split"):
        one = by_name[name]
        near, far = one.placement.rows[f"{name}_0ms"], one.placement.rows[f"{name}_200ms"]
        assert far.latency_ms.median == pytest.approx(near.latency_ms.median + 200, abs=30)
        assert far.up_bytes == near.up_bytes > 300
        assert (
            one.policies[f"{name}_200ms"]["test/rebuffer_s"].mean >= one.policies[f"{name}_0ms"]["test/rebuffer_s"].mean
        )
        assert one.policies["dense"] == results[0].policies["dense"]
    assert by_name["split"].placement.rows["split_0ms"].up_bytes > by_name["cloud"].placement.rows["cloud_0ms"].up_bytes
    assert json.dumps(results[0].identity, sort_keys=True) != json.dumps(results[1].identity, sort_keys=True)
    table = (sweep / "placement_abr.md").read_text()
    assert "| cloud | 200 |" in table
    assert (sweep / "placement_abr.png").stat().st_size > 10_000
