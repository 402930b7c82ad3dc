"""The comparison with an adaptation of the whole model to the same domain in the cloud: `specialise.cloud`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenetllm.config import Config
from edgenetllm.errors import UserError
from edgenetllm.report.results import RESULTS_FILE, Results
from edgenetllm.specialisation.start import plays
from edgenetllm.stages.evaluation import data_name
from edgenetllm.stages.export import BUNDLE
from edgenetllm.task_settings import task_settings

STEPS = ("pool", "adaptation", "pruning")  # of a run of train.py, whose seconds count


@dataclass(frozen=True)
class Cloud:
    """A finished run of train.py on the new domain: what it took, and the bytes that it would send."""

    run: Path
    seconds: float
    bundle_bytes: int

    @property
    def bundle(self) -> Path:
        return self.run / BUNDLE

    def compared(self, seconds: Mapping[str, float], bytes_down: int) -> dict[str, Any]:
        """The field `cloud` of the facts of a specialisation."""
        own = seconds["experience"] + seconds["specialisation"]
        return {
            "run": str(self.run),
            "seconds": round(self.seconds, 1),
            "bundle_bytes": self.bundle_bytes,
            "time_fraction": own / self.seconds,
            "bytes_fraction": bytes_down / self.bundle_bytes,
        }


def cloud_of(config: Config) -> Cloud | None:
    """The run that `specialise.cloud` names. Raises UserError for one that is not an adaptation to this same domain."""
    assert config.specialise is not None
    folder = config.specialise.cloud
    if folder is None:
        return None
    where, seconds, size = f"specialise.cloud={folder}", 0.0, 0
    for name, of_task in config.tasks.items():
        if not (folder / name / RESULTS_FILE).is_file() or not (folder / BUNDLE / "manifest.json").is_file():
            raise UserError(f"{where}: no bundle or no results of {name}; name a finished run of train.py")
        results = Results.load(folder / name / RESULTS_FILE)
        data = data_name(task_settings(config.settings, name)["data"])
        if results.stage != "train" or results.data != data:
            raise UserError(f"{where}: a run of {results.stage}.py on {results.data}; name one of train.py on {data}")
        if not plays(folder / BUNDLE, of_task.task):
            raise UserError(f"{where}: its bundle does not play {name} as it is configured here")
        seconds = sum(results.timings_s.get(step, 0.0) for step in STEPS)
        if not seconds > 0:
            raise UserError(
                f"{where}: its {RESULTS_FILE} does not say how long it took; name a finished run of train.py"
            )
        size = sum(path.stat().st_size for path in (folder / BUNDLE).iterdir())
    return Cloud(folder, seconds, size)
