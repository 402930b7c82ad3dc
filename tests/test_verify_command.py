"""evaluate.py verify=RUN: a finished run is replayed from its own record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from typed import call, runs


@pytest.fixture(scope="module")
def recorded(trained) -> Path:
    return runs(trained, "train")[0]


@pytest.fixture
def copied(recorded, trained) -> Path:
    """A copy of the run whose record may be changed."""
    folder = trained / "copied" / recorded.name
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(recorded, folder)
    return folder


def test_a_run_is_as_recorded(recorded, trained):
    before = {
        path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file() and "cache" not in path.parts
    }
    output = call("evaluate.py", trained, f"verify={recorded}")
    assert "every decision, figure and hash is as recorded" in output
    for policy in ("dense", "sparse", "bba", "robustmpc", "pensieve_fcc"):
        assert f"| abr | {policy} " in " ".join(output.split())
    assert {
        path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file() and "cache" not in path.parts
    } == before


@pytest.mark.slow
def test_so_is_an_evaluation_of_it(recorded, trained):
    call("evaluate.py", trained, f"run={recorded}", "data.seed=5", "data.test=12", "logger=csv")
    evaluation = runs(trained, "evaluate")[-1]
    assert "every decision, figure and hash is as recorded" in call("evaluate.py", trained, f"verify={evaluation}")


def test_changed_decisions_and_hashes_are_found(copied, trained):
    replay = copied / "abr/replay.parquet"
    table = pq.read_table(replay)
    policies = table["policy"].cast(pa.string()).to_pylist()
    actions = table["action"].to_pylist()
    at = policies.index("sparse") + 3
    actions[at] = (actions[at] + 1) % 6
    where = table.column_names.index("action")
    pq.write_table(table.set_column(where, "action", pa.array(actions, table["action"].type)), replay)
    results = json.loads((copied / "abr/results.json").read_text())
    results["data_hash"] = "0" * 64
    results["versions"]["numpy"] = "1.0"
    (copied / "abr/results.json").write_text(json.dumps(results))
    output = call("evaluate.py", trained, f"verify={copied}", ok=False)
    assert "first difference of sparse (abr): episode" in output
    assert "decision 3: action" in output
    assert "0000000000000000 then, " in output
    assert "not as it was when the run was made: numpy 1.0 ->" in output
    assert f"verify={copied}: the replay is not as recorded" in output


def test_figures_that_do_not_follow_from_the_decisions_are_found(copied, trained):
    results = json.loads((copied / "abr/results.json").read_text())
    results["policies"]["sparse"]["test/qoe"]["mean"] = 9.99
    results["policies"]["sparse"]["test/qoe"]["ci95"] = [9.9, 10]
    results["retention"]["test/qoe"] = {"mean": 1.5, "ci95": [1.4, 1.6]}
    (copied / "abr/results.json").write_text(json.dumps(results))
    replay = copied / "abr/replay.parquet"
    table = pq.read_table(replay)
    pq.write_table(table.filter(pc.not_equal(table["policy"].cast(pa.string()), "bba")), replay)
    output = call("evaluate.py", trained, f"verify={copied}", ok=False)
    assert "results.json of abr: policies.sparse.test/qoe is 9.99" in output
    assert "results.json of abr: retention.test/qoe is 1.5 [" in output
    assert "first difference of bba (abr): episode" in output
    assert "was not reached then" in output


def test_what_has_no_record_is_refused(recorded, trained, tmp_path):
    assert "not the folder of a run" in call("evaluate.py", trained, f"verify={tmp_path}", ok=False)
    assert "evaluate.py verify=RUN replays a finished run" in call("prune.py", trained, f"verify={recorded}", ok=False)
