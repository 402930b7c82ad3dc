"""`evaluate.py verify=RUN`: replay a finished run from its own record, and say which decisions, figures and hashes differ.

The bundle, the dense model of the checkpoint, the baselines and the expert play every test episode again; no episode comes
from a cache. Nothing is written, but for a baseline that has to learn first and is not in the cache (`lstm` of forecasts).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import pyarrow as pa

from edgenetllm.composition import saved_settings
from edgenetllm.config import Config, TaskConfig
from edgenetllm.edge.bundle import read_manifest
from edgenetllm.edge.engines.torch import TorchEngine
from edgenetllm.edge.replay import replay
from edgenetllm.errors import NotReproduced, UserError
from edgenetllm.experience.rollout import Episodes
from edgenetllm.models.session import Session
from edgenetllm.printable import say
from edgenetllm.report.episodes import METRICS_FILE, REPLAY_FILE, read_metrics, read_replay, write_episodes_of
from edgenetllm.report.provenance import git_state, versions
from edgenetllm.report.results import RESULTS_FILE, Results, results_folders
from edgenetllm.report.verified import Verification, changes, compare, misstated
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import Adaptation, restore
from edgenetllm.stages.evaluation import is_rounded
from edgenetllm.stages.expert import expert_of
from edgenetllm.stages.export import BUNDLE
from edgenetllm.stages.guarded import GuardedPlayer, guarded_player
from edgenetllm.stages.identity import evaluated_identity
from edgenetllm.tasks.names import GUARDED
from edgenetllm.tasks.task import Policy

TIMES = "its decisions depend on times that were measured"
GONE = "nothing in this run's folder makes it again"


@dataclass(frozen=True)
class Record:
    """A finished run, and the folder of the run whose bundle it played: its own, or of an evaluation its parent's."""

    folder: Path
    source: Path
    results: dict[str, tuple[Path, Results]]  # task -> folder, results


def verify(config: Config, run: Run) -> None:
    """Replay the run that `config.run` names and print the comparison with its record.

    Raises UserError for a run without a record that can be replayed, NotReproduced where anything differs.
    """
    assert config.run is not None
    record = record_of(config.run, run.settings)
    adaptation = _adaptation(config, record)
    found = Verification(str(record.folder))
    for name, of_task in config.tasks.items():
        folder, results = record.results[name]
        _verify_task(of_task, record, folder, results, adaptation, found)
        identity = evaluated_identity(config, results.identity, run.follows_seed) or {}
        found.reasons += _changes(results, identity, config.engine.label)
    found.hashes["bundle"] = (_recorded_digest(record), read_manifest(record.source / BUNDLE).digest)
    found.reasons = list(dict.fromkeys(found.reasons))
    say(*str(found).split("\n"))
    if not found.same:
        raise NotReproduced(f"verify={record.folder}: the replay is not as recorded")
    left = f"; {len(found.skipped)} policies were not replayed" if found.skipped else ""
    say(f"{record.folder}: every decision, figure and hash is as recorded{left}")


def record_of(folder: Path, settings: dict[str, Any]) -> Record:
    """The record of a run, from its folder alone. Raises UserError for one that has none, or that no simulator played."""
    results = {}
    for place in results_folders(folder):
        one = Results.load(place / RESULTS_FILE)
        if one.replay is not None:
            raise UserError(f"verify={folder}: its episodes were played in real time by a player; nothing repeats them")
        results[one.task] = (place, one)
    if not results:
        raise UserError(f"verify={folder}: no {RESULTS_FILE}; a finished run leaves one for each task")
    source = folder
    if not (folder / BUNDLE).is_dir():
        parent = saved_settings(folder, settings).get("run")
        if parent is None or not (Path(parent) / BUNDLE).is_dir():
            raise UserError(f"verify={folder}: neither it nor the run {parent} that it evaluated has a bundle any more")
        source = Path(parent)
    return Record(folder, source, results)


def _adaptation(config: Config, record: Record) -> Adaptation | None:
    """The adaptation that the run stands on; None where it learnt other tasks than those that were played."""
    stages = {one.stage for _, one in record.results.values()}
    try:
        return restore(config, record.source)
    except UserError:
        if stages == {"specialise"}:
            return None
        raise


def _verify_task(
    config: TaskConfig,
    record: Record,
    folder: Path,
    results: Results,
    adaptation: Adaptation | None,
    found: Verification,
) -> None:
    """Replay one task and compare each of its policies."""
    recorded, task = read_replay(folder / REPLAY_FILE), config.task
    before = read_metrics(folder / METRICS_FILE, task.metrics)
    # The policies of the record, wherever it names them, that can be built again.
    policies = _policies(config, record, adaptation, results)
    names = [*recorded["policy"].cast(pa.string()).to_pylist(), *results.policies, *before.values]
    names = [name for name in dict.fromkeys(names) if name not in before.bounds]
    timed = set(results.placement.rows if results.placement is not None else ())
    timed |= {GUARDED} if config.edge.deadline_ms is not None else set()
    again = [name for name in names if name in policies and name not in timed]
    found.skipped |= {name: TIMES if name in timed else GONE for name in names if name not in again}
    if absent := set(again) - set(before.values):
        raise UserError(f"{folder / METRICS_FILE} has no episodes of {min(absent)}, which results and replay have")
    played = _played(config, {name: policies[name] for name in again})
    per_episode = {name: task.summarise(one.record, one.reward, one.valid) for name, one in played.items()}
    # As files of a run, so that all values have the types of the record.
    with TemporaryDirectory(prefix="edgenetllm-verify-") as place:
        agent = policies.get(GUARDED) if GUARDED in played else None
        own_columns = {GUARDED: agent.columns()} if isinstance(agent, GuardedPlayer) else {}
        write_episodes_of(Path(place), task, played, per_episode, {}, own_columns)
        now, now_metrics = (
            read_replay(Path(place) / REPLAY_FILE),
            read_metrics(Path(place) / METRICS_FILE, task.metrics),
        )
    for name in played:
        figures = (before.values[name], now_metrics.values[name])
        found.policies.append(compare(task.name, name, recorded, now, task.metric, figures))
    bounds = {name: before.values[name] for name in before.bounds}
    found.misstated += misstated(results, per_episode, bounds, task.metrics)
    # Its data.
    found.hashes[f"test data of {task.name}"] = (results.data_hash, task.data_hash())


def _policies(config: TaskConfig, record: Record, adaptation: Adaptation | None, results: Results) -> dict[str, Policy]:
    """Policies by their names in results, made from the files of the run."""
    task = config.task
    seed = config.evaluation.sample_seed if config.evaluation.sample else None
    sparse = config.engine.load(record.source / BUNDLE, task, seed)
    policies: dict[str, Policy] = {"sparse": sparse, **task.baselines()}
    if (agent := guarded_player(config, sparse)) is not None:
        policies[GUARDED] = agent
    if adaptation is None:
        return policies
    dense = adaptation.dense.of_task(task.name)
    policies |= {"dense": Session(dense, adaptation.target_returns[task.name], "dense", seed)}
    policies |= expert_of(config, adaptation.source, adaptation.facts)
    # A bundle that is the dense model itself was played once.
    by_torch = results.sparsity == 0 and type(config.engine) is TorchEngine and not config.evaluation.log
    if by_torch and is_rounded(cast(Session, sparse).policy, dense, config.export.values):
        policies["sparse"] = policies["dense"]
    return policies


def _played(config: TaskConfig, policies: dict[str, Policy]) -> dict[str, Episodes]:
    """The test episodes, models on the device of the run."""
    for policy in policies.values():
        if isinstance(policy, Session):
            policy.policy.to(config.trainer.device)
    return replay(
        config.task, "test", policies, config.callbacks.progress, config.experience.workers, config.experience.backend
    )


def _changes(results: Results, identity: dict[str, Any], engine: str) -> list[str]:
    """The facts that are not as they were when the results were made: versions, source, processor, threads, engine."""
    recorded = results.identity or {}
    keys = [key for key in identity if key.startswith("evaluation.") and key in recorded]
    more = {key.removeprefix("evaluation."): (recorded[key], identity[key]) for key in keys}
    more["engine"] = (results.engine, engine)
    return changes((results.versions, versions()), (results.git, git_state()), more)


def _recorded_digest(record: Record) -> str | None:
    digests = [(one.bundle or {}).get("digest") for _, one in record.results.values()]
    return digests[0] if digests and isinstance(digests[0], str) else None
