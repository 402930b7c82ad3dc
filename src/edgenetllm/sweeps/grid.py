"""Every combination of the comma-separated values of a command, and of `hydra.sweeper.params`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser

from edgenetllm.errors import UserError
from edgenetllm.sweeps.plan import print_plan
from edgenetllm.sweeps.summary import differing
from edgenetllm.sweeps.sweep import Sweep


def run_grid(sweep: Sweep, params: Mapping[str, object]) -> None:
    """Run all jobs. Raises UserError for a misconfigured one, before any starts, and JobsFailed at the end if some failed."""
    jobs = [sweep.compose(words) for words in combinations(sweep.arguments, params)]
    wrong = []
    for job, words in zip(jobs, differing([job.overrides for job in jobs]), strict=True):
        try:
            job.load()
        except UserError as error:
            wrong.append(f"{words}: {error}")
    if wrong:
        raise UserError(f"{len(wrong)} of {len(jobs)} jobs are misconfigured; none was started:", *wrong)
    if sweep.config.dry_run:
        print_plan(sweep, jobs)
        return
    with sweep.opened():
        sweep.run([sweep.compose(job.overrides) for job in jobs])  # in the folder that was opened


def combinations(arguments: Sequence[str], params: Mapping[str, object]) -> list[list[str]]:
    """One list of overrides for each job; a key that is typed replaces that of `params`. The last one varies fastest."""
    values: dict[str, list[str]] = {}
    words = [*(f"{key}={value}" for key, value in params.items()), *arguments]
    for override in OverridesParser.create().parse_overrides(words):
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise UserError(f"{override.input_line}: an interval has no end of values; type sweep=search to search it")
    return [list(job) for job in itertools.product(*values.values())]
