"""Tables and plots of a task's results, made from nothing but its results.json, metrics.parquet and replay.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgenetllm.errors import UserError
from edgenetllm.files import write_atomic
from edgenetllm.report.episodes import METRICS_FILE, REPLAY_FILE, read_metrics, read_replay
from edgenetllm.report.layers import layer_rows, layers_markdown
from edgenetllm.report.plots import draw_plots
from edgenetllm.report.results import RESULTS_FILE, Results
from edgenetllm.report.table import print_report, to_markdown

TABLE_FILE = "table.md"
LAYERS_FILE = "layers.md"
PLOTS_FOLDER = "plots"


def draw(run_folder: Path | str, plots: bool = True, trusted: Sequence[str] = ()) -> dict[str, Path]:
    """Write `table.md`, `layers.md` of a pruned run, and `plots/*.png`; print the table.

    `trusted`: packages whose plot of an episode may be drawn. Returns what was written: what it is -> path.
    Raises UserError when one of the files is absent or damaged, or of another version, or plots would land elsewhere.
    """
    folder = Path(run_folder)
    results = Results.load(folder / RESULTS_FILE)
    paths = {"results": folder / RESULTS_FILE, "table": folder / TABLE_FILE}
    write_atomic(paths["table"], to_markdown(results).encode())
    if layer_rows(results):
        paths["layers"] = folder / LAYERS_FILE
        write_atomic(paths["layers"], layers_markdown(results).encode())
    if plots:
        if (folder / PLOTS_FOLDER).is_symlink():
            raise UserError(f"{folder / PLOTS_FOLDER}: a link out of the run's folder: remove it")
        episodes = read_metrics(folder / METRICS_FILE, list(results.metrics.values()))
        paths |= draw_plots(results, episodes, read_replay(folder / REPLAY_FILE), folder / PLOTS_FOLDER, trusted)
    bundles = [place / "bundle" for place in (folder, folder.parent)]  # the results are of a task: RUN/<task>
    if bundle := next((path for path in bundles if path.is_dir()), None):
        paths["bundle"] = bundle
    print_report(results, paths)
    return paths
