"""The row `guarded` of a replay: refused where it could not be played; it says how many decisions were not the model's."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from test_config import settings
from typed import call, runs

from edgenetllm.config import load_config
from edgenetllm.edge.agent.guarded import Safety
from edgenetllm.edge.bundle import read_bundle
from edgenetllm.errors import UserError
from edgenetllm.report.results import Results
from edgenetllm.report.table import to_markdown
from edgenetllm.sections import Edge
from edgenetllm.stages.guarded import check_edge
from edgenetllm.stages.identity import evaluated_identity, pruned_identity


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["edge.deadline_ms=0"], r"edge\.deadline_ms"),
        (["edge.deadline_ms=soon"], r"edge\.deadline_ms"),
        (["edge.guard=perhaps"], r"edge\.guard"),
        (["+edge.dedline_ms=5"], r"edge\.dedline_ms"),
        (["edge.faults={kind: broken, rate: 0.1}"], r"edge\.faults\.kind"),
        (["edge.faults={kind: slow, rate: 2}"], r"edge\.faults\.rate"),
        (["edge.faults={kind: slow}"], r"edge\.faults\.rate"),
        (["edge.guard=true", "engine=torch"], "engine=compiled"),
        (["edge.fallback=bola"], r"edge\.fallback=bola.*abr: bba, robustmpc"),
        (["task=cjs", "data=synthetic_dags", "edge.fallback=bba"], r"edge\.fallback=bba.*cjs: fair, tuned"),
    ],
)
def test_what_could_not_be_played_is_refused(typed, message):
    with pytest.raises(UserError, match=message):
        check_edge(load_config(settings("model=tiny", *typed)))


@pytest.mark.parametrize("typed", [[], ["edge.guard=true"], ["edge.fallback=robustmpc"], ["edge.deadline_ms=20"]])
def test_what_can_be_played_is_accepted(typed):
    config = load_config(settings("model=tiny", *typed))
    check_edge(config)
    assert config.edge.is_set == bool(typed)


def test_a_fallback_of_one_of_several_tasks_is_that_of_this_task_only():
    edge = Edge(deadline_ms=20, fallback="robustmpc")
    assert edge.safety(["bba", "robustmpc"]) == Safety(20, fallback="robustmpc")
    assert edge.safety(["fair", "tuned"]) == Safety(20)
    check_edge(load_config(settings("model=tiny", "task=abr+cjs", "edge.fallback=tuned")))


def test_the_options_are_of_the_evaluation_alone():
    plain, typed = (load_config(settings("model=tiny", *more)) for more in ([], ["edge.guard=true"]))
    assert pruned_identity(plain, {}) == pruned_identity(typed, {})
    assert evaluated_identity(plain, {}) != evaluated_identity(typed, {})
    old = settings("model=tiny")
    del old["edge"]
    assert not load_config(old).edge.is_set  # a run of an earlier version


@pytest.mark.slow
def test_a_bundle_is_replayed_as_an_agent_plays_it(trained):
    (run,) = runs(trained, "train")[:1]
    extra = read_bundle(run / "bundle").manifest.extra
    assert set(extra["fallback"]["abr"]["policies"]) == {"bba", "robustmpc"}
    assert extra["guard"]["abr"]["decisions"] > 100
    faults = json.dumps({"kind": "raised", "rate": 0.25}).replace('"', "")
    typed = ["logger=csv", "callbacks.progress_bar=false", "trainer.threads=1", "evaluation.plots=false"]
    output = call(
        "evaluate.py",
        trained,
        f"run={run}",
        "edge.guard=true",
        "edge.deadline_ms=2000",
        f"edge.faults={faults}",
        *typed,
    )
    folder = runs(trained, "evaluate")[-1] / "abr"
    results = Results.load(folder / "results.json")
    # The counts of the results are those of the replay, and every table says them.
    assert results.guarded is not None
    assert results.guarded.decisions == 20 * 47
    assert 0.1 < results.guarded.events["raised"] / results.guarded.decisions < 0.4
    rows = pq.read_table(folder / "replay.parquet").to_pylist()
    reasons = [row["reason"] for row in rows if row["policy"] == "guarded"]
    assert {reason: reasons.count(reason) for reason in set(reasons) - {None}} == results.guarded.events
    assert all(row["reason"] is None for row in rows if row["policy"] != "guarded")
    line = f"guarded, within 2000 ms: bba took {sum(results.guarded.events.values())} of 940 decisions"
    assert line in output
    assert f"guarded ({results.guarded.share:.1%} bba)" in to_markdown(results)
    assert list(results.decision_ms)[:3] == ["compiled sparse", "compiled dense", "compiled guarded"]
    # A run without `edge` has neither the row nor the column.
    plain = Results.load(run / "abr" / "results.json")
    assert plain.guarded is None
    assert "guarded" not in plain.policies
    assert "reason" not in pq.read_table(run / "abr" / "replay.parquet").column_names
    assert results.policies["sparse"] == plain.policies["sparse"]
