"""The saved W&B workspace in which runs are compared: retention against sparsity, quality against latency and size.

python -m edgenetllm.tracking.workspace --entity me --project edgenetllm     creates it (needs an API key)
python -m edgenetllm.tracking.workspace --entity me --json workspace.json    writes its definition, without network
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import get_class

from edgenetllm import console
from edgenetllm.errors import UserError
from edgenetllm.files import write_json
from edgenetllm.installation import CONF, install_command
from edgenetllm.plain_files import read_yaml
from edgenetllm.printable import say, say_error
from edgenetllm.report.results import metric_key
from edgenetllm.report.summary import BUNDLE_MB, CURVE, DECISION_MS, RETENTION
from edgenetllm.report.text import metric_name
from edgenetllm.tasks.task import Metric

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

TASKS = CONF / "task"
RUNS = 500  # shown in a plot: W&B's own default is 10, less than one sweep
LEGEND = "${run:displayName} ${config:model} ${config:pruning} ${config:sparsity}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m edgenetllm.tracking.workspace", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--entity", required=True, help="W&B user or team")
    parser.add_argument("--project", default="edgenetllm", help="W&B project (default: %(default)s)")
    parser.add_argument("--name", default="Sparsity, latency, size", help="of the saved view (default: %(default)s)")
    parser.add_argument(
        "--json", metavar="FILE", help="write the definition to FILE (- prints it) instead of saving it"
    )
    chosen = parser.parse_args(arguments)
    try:
        workspace = build_workspace(chosen.entity, chosen.project, chosen.name, task_metrics(TASKS))
        if chosen.json is None:
            save(workspace)
        elif chosen.json == "-":
            say(*json.dumps(definition(workspace), indent=2).split("\n"))
        else:
            write_json(chosen.json, definition(workspace))
    except UserError as error:
        say_error(error)
        sys.exit(2)


def task_metrics(folder: Path) -> dict[str, Metric]:
    """Name of each task in `conf/task` -> its first metric; runs of several tasks report the metrics of each."""
    nodes: list[Any] = [read_yaml(path) for path in sorted(folder.glob("*.yaml"))]
    tasks: dict[str, Any] = {str(node["name"]): get_class(node["_target_"]) for node in nodes if "_target_" in node}
    # Those of a forecast depend on its columns: a workspace is built without any.
    return {name: task.metrics[0] for name, task in tasks.items() if not isinstance(task.metrics, property)}


def build_workspace(entity: str, project: str, name: str, metrics: dict[str, Metric]) -> Workspace:
    """The workspace with three comparisons and the curve of the expert search; of finished runs only.

    Raises UserError when wandb-workspaces is not installed.
    """
    ws, wr = _library()

    # The kinds of panels.
    def scatter(title: str, x: Any, y: str) -> Any:
        return wr.ScatterPlot(title=title, x=x, y=wr.SummaryMetric(y), legend_template=LEGEND)

    def quality(x: str, unit: str) -> list[Any]:
        return [
            scatter(f"{task}: {metric_name(metric)} against {unit}", wr.SummaryMetric(x), metric_key(metric))
            for task, metric in metrics.items()
        ]

    retention = [scatter("Retention against sparsity", wr.Config("sparsity"), RETENTION)]

    def curve(x: str, unit: str) -> Any:
        title = f"Expert policy on validation against {unit}"
        return wr.LinePlot(title=title, x=wr.Metric(f"{CURVE}{x}"), y=[wr.Metric(f"{CURVE}validation")])

    # The sections, in order.
    sections = {
        "Retention against sparsity": retention,
        "Quality against latency": quality(DECISION_MS, "ms per decision"),
        "Quality against size": quality(BUNDLE_MB, "MB of the bundle"),
        "Experience": [curve("steps", "environment steps"), curve("seconds", "wall time [s]")],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=title, panels=panels, is_open=True) for title, panels in sections.items()],
        settings=ws.WorkspaceSettings(max_runs=RUNS),
        runset_settings=ws.RunsetSettings(filters=[ws.Metric("State") == "finished"]),
    )


def definition(workspace: Workspace) -> dict[str, Any]:
    """The workspace as `save` would send it."""
    return workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)


def save(workspace: Workspace) -> None:
    """Create the view, a new one each time, and print its address. Raises UserError when W&B refuses it."""
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError  # no wandb.Error

    try:
        workspace.save()
    except (wandb.Error, WandbApiFailedError) as error:
        raise UserError(
            f"W&B did not save the workspace of {workspace.entity}/{workspace.project} ({error}): check the API key "
            "(`wandb login`), and that the project has a run"
        ) from None
    say(workspace.url)


def _library() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError as error:
        raise UserError(f"this needs wandb-workspaces ({error}): {install_command('workspace')}") from None
    return ws, wr


if __name__ == "__main__":
    console.program(main)
