"""The definition that the library itself builds, without network: it plots names that the runs really log."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from test_config import settings
from tracking.wandb_server import listening

from edgenetllm.errors import UserError
from edgenetllm.report.results import Results, latency
from edgenetllm.report.summary import summarise
from edgenetllm.run import Run
from edgenetllm.tasks.abr.expert.counterfactual import CounterfactualSearch
from edgenetllm.tracking import workspace
from edgenetllm.tracking.tracking import wandb_config

ws = pytest.importorskip("wandb_workspaces.workspaces")


@pytest.fixture
def built() -> dict:
    made = workspace.build_workspace("me", "edgenetllm", "comparisons", workspace.task_metrics(workspace.TASKS))
    return workspace.definition(made)


def panels(built: dict) -> dict[str, list[tuple[str, str]]]:
    sections = built["spec"]["section"]["panelBankConfig"]["sections"]
    scattered = [s for s in sections if s["name"] != "Experience"]
    return {s["name"]: [(p["config"]["xAxis"], p["config"]["yAxis"]) for p in s["panels"]] for s in scattered}


def test_the_three_comparisons(built):
    assert panels(built) == {
        "Retention against sparsity": [("config:sparsity.value", "summary:test/retention")],
        "Quality against latency": [
            ("summary:edge/decision_ms", "summary:test/qoe"),
            ("summary:edge/decision_ms", "summary:test/jct_s"),
            ("summary:edge/decision_ms", "summary:test/error_deg"),
        ],
        "Quality against size": [
            ("summary:bundle/mb", "summary:test/qoe"),
            ("summary:bundle/mb", "summary:test/jct_s"),
            ("summary:bundle/mb", "summary:test/error_deg"),
        ],
    }
    views = [p["viewType"] for s in built["spec"]["section"]["panelBankConfig"]["sections"] for p in s["panels"]]
    assert set(views[:-2]) == {"Scatter Plot"}
    assert built["spec"]["section"]["settings"]["maxRuns"] == workspace.RUNS


def test_runs_log_what_is_plotted(built, results, tmp_path):
    """Every axis and every name in a legend, against the summary and the config of a run."""
    timed: Results = results.model_copy(update={"decision_ms": {"torch sparse": latency([1.0])}})
    run = Run(tmp_path, "train", settings("experiment=debug"), {"task": "abr", "model": "tiny", "pruning": "wanda"})
    known = {f"summary:{key}" for key in (*summarise(timed), "test/jct_s", "test/error_deg")}
    config = wandb_config(run)
    known |= {f"config:{key}.value" for key in config}
    axes = {axis for section in panels(built).values() for panel in section for axis in panel}
    assert axes <= known
    assert {"sparsity", "model", "pruning"} <= set(config)  # LEGEND
    assert all("${config:" + key + "}" in workspace.LEGEND for key in ("sparsity", "model", "pruning"))


def test_the_curve_of_the_expert_search_is_drawn_from_what_it_logs(built, task, tmp_path):
    drawn = built["spec"]["section"]["panelBankConfig"]["sections"][-1]["panels"]
    axes = [(p["config"]["xAxis"], *p["config"]["metrics"]) for p in drawn]
    assert axes == [(f"experience/{x}", "experience/validation") for x in ("steps", "seconds")]
    options = CounterfactualSearch(members=1, clone_episodes=2, clone_epochs=1, iterations=1, episodes=1, horizon=2)
    _, curve = options.search(task, 0, tmp_path / "unfinished", progress=False)
    assert {"steps", "seconds", "validation"} <= set(curve[-1])


def test_the_library_reads_its_own_definition(built):
    """Through the model that the library parses a saved view with."""
    from wandb_workspaces.workspaces import internal

    made = workspace.build_workspace("me", "edgenetllm", "comparisons", workspace.task_metrics(workspace.TASKS))
    view = internal.View.model_validate(built | {"name": "nw-x-v", "id": "x"})
    again = ws.Workspace._from_model(view)
    assert [s.name for s in again.sections] == [s.name for s in made.sections]
    assert again.runset_settings.filters == made.runset_settings.filters
    assert "finished" in again.runset_settings.filters


def test_json_is_written_without_network(tmp_path, capsys):
    workspace.main(["--entity", "me", "--project", "mine", "--json", str(tmp_path / "w.json")])
    written = json.loads((tmp_path / "w.json").read_text())
    assert (written["entity"], written["project"]) == ("me", "mine")
    workspace.main(["--entity", "me", "--json", "-"])
    assert panels(json.loads(capsys.readouterr().out)) == panels(written)


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[workspace\]'"):
        workspace.build_workspace("me", "edgenetllm", "comparisons", {})


@pytest.mark.parametrize("refuses", ["", "UpsertView2"])
def test_one_command_saves_it(built, tmp_path, refuses):
    command = [sys.executable, "-m", "edgenetllm.tracking.workspace", "--entity", "me", "--name", "comparisons"]
    with listening() as server:
        server.refuses = refuses
        there = server.surroundings(tmp_path)
        result = subprocess.run(command, env=there, capture_output=True, text=True, check=False, timeout=120)
    (sent,) = server.all("UpsertView2")
    assert (sent["entityName"], sent["projectName"], sent["displayName"]) == ("me", "edgenetllm", "comparisons")
    assert panels({"spec": json.loads(sent["spec"])}) == panels(built)
    if refuses:
        assert result.returncode == 2
        assert "error: W&B did not save the workspace of me/edgenetllm" in result.stderr
        assert "permission denied" in result.stderr
        assert "Traceback" not in result.stderr
    else:
        assert (result.returncode, result.stdout) == (0, f"{server.url}/me/edgenetllm?nw=abc\n")


def test_without_a_key_it_asks_for_one(tmp_path):
    command = [sys.executable, "-m", "edgenetllm.tracking.workspace", "--entity", "me"]
    with listening() as server:
        there = {name: value for name, value in server.surroundings(tmp_path).items() if name != "WANDB_API_KEY"}
        result = subprocess.run(
            command, env=there, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120
        )
    assert result.returncode == 2
    assert "`wandb login`" in result.stderr
    assert not server.all("UpsertView2")
