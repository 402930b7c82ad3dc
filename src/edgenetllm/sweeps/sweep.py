"""A sweep in the process that was started with `-m`: composes jobs, launches those not done, tells what became of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from edgenetllm.commands import quoted, shell, word
from edgenetllm.composition import require_parent, settings_of
from edgenetllm.config import Config, load_config
from edgenetllm.errors import JobsFailed, UserError
from edgenetllm.explain import explain
from edgenetllm.files import remove_abandoned, write_atomic
from edgenetllm.interruption import Interrupted, first, in_workers
from edgenetllm.models.label import model_label
from edgenetllm.printable import say
from edgenetllm.run import STATE_FILE, Run
from edgenetllm.sweeps.devices import check_devices, refuse_to_start_in_ranks
from edgenetllm.sweeps.folder import add_jobs, find_sweep, open_sweep, state_of
from edgenetllm.sweeps.job import is_done
from edgenetllm.sweeps.summary import is_alive, print_placements, print_summary
from edgenetllm.tracking.tracking import first_line

CLOSING_S = 20  # that jobs in other processes have to close their experiment loggers after a signal


@dataclass(frozen=True)
class Job:
    """One job: what is typed for it, and the run that it stands for."""

    overrides: tuple[str, ...]
    run: Run

    @property
    def name(self) -> str:
        return self.run.folder.name

    @property
    def state(self) -> dict[str, Any]:
        return state_of(self.run.folder)

    def load(self) -> Config:
        return load_config(self.run.settings)


class Sweep:
    """`arguments` are the words of the command, without those for Hydra."""

    def __init__(
        self, stage: str, config: DictConfig, context: HydraContext, launcher: Launcher, arguments: Sequence[str]
    ) -> None:
        self.stage, self.config, self.context, self.launcher = stage, config, context, launcher
        self.arguments = [word for word in arguments if not word.startswith(("resume=", "dry_run="))]  # of the sweep
        refuse_to_start_in_ranks()
        new = Path(str(config.hydra.sweep.dir)).absolute()
        self.folder = find_sweep(stage, arguments, config.resume, new)
        self.is_new = not config.resume
        self.launched = 0

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Note that the sweep is on disk from here on: after a signal it ends with its summary."""
        self._open()
        try:
            yield
        except Interrupted as signalled:
            print_summary(self.folder)
            signalled.resume = self.folder
            raise

    def _open(self) -> None:
        if self.is_new:
            self.folder, self.is_new = open_sweep(self.folder, self.stage, self.arguments), False
        with read_write(self.config), open_dict(self.config):
            self.config.hydra.sweep.dir = str(self.folder)  # for the launcher's own files
        remove_abandoned(self.folder)
        write_atomic(self.folder / "multirun.yaml", OmegaConf.to_yaml(self.config).encode())

    def compose(self, overrides: Sequence[str]) -> Job:
        """The job of these overrides. Its folder is named after its configuration: the same job is always the same folder."""
        try:
            composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
        except HydraException as error:
            raise UserError(*explain(error, overrides).removeprefix("error: ").splitlines()) from None
        settings, choices = settings_of(composed, composed.hydra, self.stage)
        require_parent(self.stage, settings)
        check_devices(settings, composed.hydra.launcher)
        run = Run(self.folder, self.stage, settings, choices)
        run.folder = self.folder / _name(run)
        return Job(tuple(overrides), run)

    def run(self, jobs: Sequence[Job]) -> None:
        """Launch the jobs that are not done, then tell what became of all. Raises JobsFailed when some did not finish."""
        self.launch(jobs)
        self.end()

    def launch(self, jobs: Sequence[Job]) -> None:
        """Run the jobs that are not done, as the launcher does; what became of each is in its folder."""
        missing = [job for job in jobs if not is_done(job.state)]
        if len(missing) < len(jobs):
            say(f"{len(jobs) - len(missing)} of {len(jobs)} jobs are done already")
        add_jobs(self.folder, {job.name: job.overrides for job in jobs})
        at_once = self.config.launcher.jobs if self.config.launcher.batches else max(1, len(missing))
        for start in range(0, len(missing), at_once):
            self._launch(missing[start : start + at_once])

    def _launch(self, batch: Sequence[Job]) -> None:
        try:
            with first(lambda: self._close_jobs(batch)):
                returns = self.launcher.launch([self._words(job) for job in batch], initial_job_idx=self.launched)
        except Interrupted:
            for job in batch:
                if not is_alive(job.run.folder):  # one that runs on a cluster goes on
                    job.run.interrupt()
            raise
        except Exception as error:  # jobs keep theirs: this is the launcher's own, such as a worker that was killed
            say(f"the launcher failed: {first_line(error)}", file=sys.stderr)
            return
        finally:
            self.launched += len(batch)
        for job, returned in zip(batch, returns, strict=True):
            if returned.status == JobStatus.FAILED:  # before it was a job, such as a mistake in launcher.gpus
                job.run.folder.mkdir(parents=True, exist_ok=True)
                job.run.note(status="failed", error=first_line(returned._return_value))

    def _close_jobs(self, batch: Sequence[Job]) -> None:
        """Pass a signal on to jobs in processes that this one started, and wait until they have recorded their state.

        Their launcher kills them as soon as the signal is raised here, or one of them ends.
        """
        if not in_workers(self.config.launcher.name):
            return
        for child in multiprocessing.active_children():
            if child.pid is not None:
                os.kill(child.pid, signal.SIGTERM)
        until = time.monotonic() + CLOSING_S
        while time.monotonic() < until and any(is_alive(job.run.folder) for job in batch):
            time.sleep(0.1)

    def _words(self, job: Job) -> list[str]:
        """The overrides of a job for Hydra, with its folder."""
        return [*job.overrides, f"hydra.sweep.dir={quoted(self.folder)}", f"hydra.sweep.subdir={quoted(job.name)}"]

    def end(self) -> None:
        """Print what became of the jobs. Raises JobsFailed, with what to type, when some did not finish."""
        failed = print_summary(self.folder)
        print_placements(self.folder)
        if failed:
            alone = [
                f"  {shell([word('resume', self.folder / name), *words])}"
                for name, words in failed
                if (self.folder / name / STATE_FILE).is_file()  # else it was not started
            ]
            failure = "jobs did not finish; the same command with resume=true runs these alone"
            failure += ", or one of them:" if alone else ""
            raise JobsFailed("\n".join([f"{len(failed)} {failure}", *alone]))


def _name(run: Run) -> str:
    """The name of a job: words for people, and the hash that tells configurations apart."""
    settings = run.settings
    parts = [settings["task"]["name"], model_label(settings["model"]), settings["data"]["name"]]
    method = run.choices.get("pruning", "")
    return f"{'-'.join(parts)}-s{settings['sparsity']:g}-{method}-seed{settings['seed']}_{run.config_hash[:8]}"
