"""`specialise.py`: encoder and head of a run's bundle learn another domain, or another task, on its sparse backbone."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from edgenetllm.composition import saved_settings
from edgenetllm.config import Config
from edgenetllm.edge.calibrate_guard import calibrate_guards
from edgenetllm.edge.export import describe_fallbacks
from edgenetllm.errors import UserError
from edgenetllm.installation import program_of
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.parallel import require_backend
from edgenetllm.printable import say
from edgenetllm.report.results import RESULTS_FILE, Results, results_folders
from edgenetllm.run import Run
from edgenetllm.sections import Specialisation
from edgenetllm.specialisation.bundle import sparse_names, write_specialised
from edgenetllm.specialisation.cloud import cloud_of
from edgenetllm.specialisation.domain import check_rows
from edgenetllm.specialisation.episodes import with_few_episodes
from edgenetllm.specialisation.facts import facts_of
from edgenetllm.specialisation.learn import learn
from edgenetllm.specialisation.parameters import choose_trained, zero_backbone
from edgenetllm.specialisation.report import report
from edgenetllm.specialisation.sessions import old_domains
from edgenetllm.specialisation.start import start_policy
from edgenetllm.stages.adaptation import read_facts, write_facts
from edgenetllm.stages.check_task import check_tasks
from edgenetllm.stages.evaluate import groups_of_another_bundle
from edgenetllm.stages.export import BUNDLE
from edgenetllm.stages.identity import evaluated_identity, specialised_identity
from edgenetllm.stages.lineage import made_specialised_bundle, used_pool
from edgenetllm.stages.pool import collect_pools
from edgenetllm.stages.shipping import shipping
from edgenetllm.tasks.task import Split
from edgenetllm.tracking.tracking import tracked


def specialise(config: Config, run: Run) -> float | None:
    """Returns the specialised model's objective on validation, for sweeps: test data chooses nothing."""
    # What can fail is tried before anything expensive.
    options, parent = config.specialise, _parent(config, run)
    assert options is not None
    assert config.run is not None
    few, bundle = with_few_episodes(config), config.run / BUNDLE
    start = start_policy(bundle, config.task_objects, options.scratch, config.seed)
    trained = choose_trained(start, options.train, sparse_names(bundle))
    _check_engine(config, start)
    announce(config, options, start, trained)
    if config.dry_run:
        return None
    splits: tuple[Split, ...] = ("train", "val")  # empty splits are said before a pool is collected
    for split in splits:
        for task in config.task_objects.values():
            task.seeds(split)
    require_backend(config.experience.workers, config.experience.backend)
    check_tasks(config)
    check_rows(config.task_objects)
    old, notes = old_domains(config, run)
    cloud = cloud_of(config)
    with tracked(config, run) as logger:
        say(f"run: {run.folder}")
        # The episodes, and what is learnt from them, also without a backbone.
        began = time.perf_counter()
        pools = collect_pools(few, logger)
        seconds = {"experience": time.perf_counter() - began}
        used_pool(config, logger, pools)
        zeroed = zero_backbone(copy.deepcopy(start)) if options.control else None
        learnt = learn(config, start, pools, logger, trained)
        control = None if zeroed is None else learn(config, zeroed, pools, None, trained)
        seconds |= {"specialisation": learnt.seconds, **({} if control is None else {"control": control.seconds})}
        # The bundle, whose sparse file is the parent's.
        group: Any = (parent.bundle or {}).get("group")
        fallbacks = describe_fallbacks({name: task.fallbacks() for name, task in config.task_objects.items()})
        guards = calibrate_guards(learnt.policy, pools)
        more = {name: one for name, one in {"guard": guards, "fallback": fallbacks}.items() if one}
        written, difference = write_specialised(
            bundle, run.folder / BUNDLE, learnt.policy, learnt.target_returns, trained, group, more
        )
        sizes = {**(parent.bundle or {}), **written}
        sizes["shipping"] = shipping(sizes, config.paths.data_dir)
        write_facts(run.folder, read_facts(config.run), parent=config.run)
        # Replay of both domains, and results.
        control_fit = None if control is None else control.fitted
        facts = facts_of(options, learnt.fitted, control_fit, pools, difference, seconds)
        facts["cloud"] = None if cloud is None else cloud.compared(seconds, difference.travel_files)
        both, sent = (learnt, control), None if cloud is None else cloud.bundle
        identity = evaluated_identity(config, specialised_identity(config, parent.identity), run.follows_seed)
        reports = report(config, run, logger, old, parent, both, sent, facts, sizes, seconds, identity, notes)
        made_specialised_bundle(config, logger, run.folder / BUNDLE, bundle, reports)
    return learnt.objective if config.evaluation.validation else None


def _parent(config: Config, run: Run) -> Results:
    """The results of the run that is specialised. Raises UserError where it has no bundle, or something is typed that would
    have made another one."""
    if config.run is None or not (config.run / BUNDLE / "manifest.json").is_file():
        raise UserError(f"run={config.run}: no bundle in this folder; name a finished train or prune run")
    folders = results_folders(config.run)
    if not folders:
        raise UserError(f"run={config.run}: no {RESULTS_FILE}; a finished run leaves one for each task")
    typed, saved = ({**one, "specialise": None} for one in (run.settings, saved_settings(config.run, run.settings)))
    if groups := groups_of_another_bundle(typed, saved):
        raise UserError(
            f"{groups[0]}: {program_of('specialise')} leaves the sparse file of {config.run} as it is; "
            f"{program_of('prune')} makes another"
        )
    read_facts(config.run)  # of its adaptation, which are kept with the result
    return Results.load(folders[0] / RESULTS_FILE)


def _check_engine(config: Config, policy: PolicyNetwork) -> None:
    """Raises UserError for a model that the engine does not run."""
    apart = any("lora_" in name for name, _ in policy.decoder.named_parameters())
    config.engine.check(policy.decoder.config.to_dict(), config.task_objects, adapter=apart)  # type: ignore[union-attr,operator]


def announce(config: Config, options: Specialisation, policy: PolicyNetwork, trained: list[str]) -> None:
    """Print data and the size of the work, and set the number of torch threads."""
    if not config.dry_run:
        _ = config.trainer.device
    torch.set_num_threads(config.compute.threads)
    for task in config.task_objects.values():
        for line in task.describe_data():
            say(line)
    sizes = {name: one.numel() for name, one in policy.named_parameters()}
    episodes = f"{options.episodes} episodes" if config.experience.shares else "logged episodes"
    say(
        f"specialise: {' and '.join(options.train)} of {config.run}, {sum(sizes[name] for name in trained):,} of "
        f"{sum(sizes.values()):,} parameters; {episodes}, at most {options.steps} steps of {options.batch_size} sequences",
    )
