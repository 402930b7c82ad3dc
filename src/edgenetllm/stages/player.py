"""`evaluate.py replay=player`: test traces played by a bundle and baselines in a real player, next to the simulator."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np

from edgenetllm.config import Config, TaskConfig
from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import Episodes
from edgenetllm.installation import install_command
from edgenetllm.models.session import Session
from edgenetllm.printable import say
from edgenetllm.report.bootstrap import difference_ci
from edgenetllm.report.draw import draw
from edgenetllm.report.episodes import METRICS_FILE, REPLAY_FILE, write_metrics, write_replay
from edgenetllm.report.played import write_comparison
from edgenetllm.report.provenance import git_state, versions
from edgenetllm.report.results import RESULTS_FILE, Results, describe_metrics, estimates, latency
from edgenetllm.report.summary import episode_table
from edgenetllm.run import Run
from edgenetllm.stages.adaptation import restore
from edgenetllm.stages.evaluation import data_name
from edgenetllm.stages.export import BUNDLE
from edgenetllm.stages.guarded import guarded_player
from edgenetllm.stages.identity import evaluated_identity
from edgenetllm.stages.lineage import used_bundle
from edgenetllm.stages.player_sessions import Plan, Row, browser_facts, compare, overhead, play_rows, row_name
from edgenetllm.tasks.abr.player.browser import find_browser, has_display
from edgenetllm.tasks.abr.player.media import smallest_chunk
from edgenetllm.tasks.abr.task import AbrTask
from edgenetllm.tasks.names import GUARDED
from edgenetllm.tasks.task import Policy
from edgenetllm.tracking.loggers import Loggers
from edgenetllm.tracking.tracking import log_identity, log_results, tracked

OURS = ("dense", "sparse")
TOO_BUSY = 0.05  # of the time of a row


def plan(config: Config) -> Plan:
    """The sessions to play. Raises UserError for anything that cannot be played, before anything starts."""
    # A task that streams, policies that exist.
    options = config.replay
    of_task = next((one for one in config.tasks.values() if isinstance(one.task, AbrTask)), None)
    if of_task is None:
        raise UserError(f"replay=player plays videos, and task={config.task_name} has none: leave it away")
    task = of_task.task
    assert isinstance(task, AbrTask)
    known = [*OURS, *([GUARDED] if config.edge.is_set else []), *task.baselines()]
    if unknown := [name for name in options.policies if name not in known]:
        raise UserError(f"replay.policies={unknown[0]}: choose among {', '.join(known)}")
    if config.edge.is_set and GUARDED not in options.policies:
        raise UserError(f"edge.*: in the player it is a policy of its own: add {GUARDED} to replay.policies")
    if config.evaluation.log:
        raise UserError("evaluation.log=true: the player writes no decision logs; leave it away")
    for key in ("policies", "cloud_ms"):
        if len(set(values := getattr(options, key))) < len(values):
            raise UserError(f"replay.{key}={values}: name each of them once")
    # Test traces, evenly over the set; a video whose chunks hold the picture.
    available = len(task.seeds("test"))
    count = available if options.traces is None else options.traces
    if count > available:
        raise UserError(f"replay.traces={count}: there are {available} test traces; null stands for all")
    episodes = np.unique(np.linspace(0, available - 1, count).round().astype(int)) if count > 1 else np.zeros(1, int)
    smallest = int(task.environment("test").videos.tables[0].min())
    if smallest < smallest_chunk():
        raise UserError(
            f"data.video={task.data.video}: a chunk of {smallest} bytes; the player needs {smallest_chunk()} for a picture"
        )
    # A server and a browser.
    if find_spec("aiohttp") is None:
        raise UserError(f"replay=player needs aiohttp: {install_command('player')}")
    browser: str | None = None
    if not options.show:
        browser = find_browser(options.browser)
    elif options.browser is not None or has_display():
        browser = find_browser(options.browser, visible=True)
    rows = [Row(policy, cloud_ms) for policy in options.policies for cloud_ms in options.cloud_ms]
    return Plan(of_task, rows, [int(episode) for episode in episodes], browser)


def evaluate_in_player(config: Config, run: Run, parent: Results) -> None:
    """Play the bundle of `config.run`, whose results are `parent`, and write what `evaluate.py` writes. Raises UserError."""
    intended = plan(config)
    count, of_task = len(intended.rows) * len(intended.episodes), intended.config
    seconds = of_task.task.max_steps * intended.chunk_s / config.replay.speed  # type: ignore[attr-defined]
    length = f"{count} sessions of about {seconds:.0f} s each, {config.replay.sessions} at a time"
    if config.dry_run:
        say(f"would play {length}, in {intended.browser or 'a browser of yours'}")
        return
    with tracked(config, run) as logger:
        say(f"run: {run.folder}", f"player: {length}")
        _evaluate(config, run, intended, parent, logger)
        used_bundle(config, logger, config.run / BUNDLE)  # type: ignore[operator]


def _evaluate(config: Config, run: Run, intended: Plan, parent: Results, logger: Loggers) -> None:
    # Policies; sessions in the player, then the same in the simulator.
    of_task = intended.config
    task, task_run = of_task.task, run.of_task(of_task.task.name)
    policies = _policies(config, of_task)
    began = time.perf_counter()
    played = play_rows(intended, policies)
    seconds = time.perf_counter() - began
    compared = compare(intended, played, policies)
    # Results, and the files that are made from them.
    per_episode = {name: task.summarise(one.record, one.reward, one.valid) for name, one in played.items()}
    all_names, all_seeds = task.episode_names("test"), task.seeds("test")
    names, seeds = [all_names[number] for number in intended.episodes], all_seeds[intended.episodes]
    facts = browser_facts(intended)
    identity = evaluated_identity(config, parent.identity, run.follows_seed)
    results = Results(
        stage="evaluate",
        task=task.name,
        model=parent.model,
        data=data_name(task_run.settings["data"]),
        run=str(run.folder),
        seed=config.seed,
        sparsity=config.sparsity,
        pruning={key: value for key, value in (parent.pruning or {}).items() if key != "layers"} or None,
        recovery=parent.recovery,
        metrics=describe_metrics(task.metrics),
        policies=estimates(per_episode, task.metrics),
        differences=_differences(intended, per_episode, task.metric.name),
        bundle=parent.bundle,
        timings_s={"player": seconds},
        engine=of_task.engine.label,
        decision_ms={f"player {name}": latency(one.decision_ms) for name, one in played.items()},
        versions=versions(),
        git=git_state(),
        config_hash=run.config_hash,
        data_hash=task.data_hash(),
        identity=None if identity is None else {**identity, **{f"replay.{key}": value for key, value in facts.items()}},
        replay={**config.settings["replay"], **facts, "episodes": list(names)},
        timeline=task.timeline,
        notes=[*task.notes(), *_notes(intended, played)],
    )
    folder = task_run.folder
    rows = {name: _columns(one) for name, one in played.items()}
    write_replay(folder / REPLAY_FILE, rows, names, {name: one.valid for name, one in played.items()})
    write_metrics(folder / METRICS_FILE, per_episode, {}, task.metrics, names, seeds)
    results.save(folder / RESULTS_FILE)
    draw(folder, plots=config.evaluation.plots, trusted=[task.timeline.partition(".")[0]])
    write_comparison(folder, compared)
    figures = {
        f"player/{name}/{key.partition('/')[2]}": value.mean
        for name, row in results.policies.items()
        for key, value in row.items()
    }
    log_results(logger, figures, episode_table(results, per_episode, names), folder)
    log_identity(logger, results)


def _policies(config: Config, of_task: TaskConfig) -> dict[str, Policy]:
    """The policies that are asked for; the dense model is only restored where it is among them."""
    assert config.run is not None
    task, wanted = of_task.task, config.replay.policies
    seed = config.evaluation.sample_seed if config.evaluation.sample else None
    policies: dict[str, Policy] = dict(task.baselines())
    if {"sparse", GUARDED} & set(wanted):
        sparse = policies["sparse"] = of_task.engine.load(config.run / BUNDLE, task, seed)
        if (agent := guarded_player(of_task, sparse)) is not None:
            policies[GUARDED] = agent
    if "dense" in wanted:
        adaptation = restore(config, config.run)
        target = adaptation.target_returns[task.name]
        policies["dense"] = Session(adaptation.dense.of_task(task.name).to("cpu"), target, "dense", seed)
    return {name: policies[name] for name in wanted}


def _differences(intended: Plan, per_episode: dict[str, Any], metric: str) -> dict[str, Any]:
    """The sparse model minus every other policy that decides as far away, over the same traces."""
    pairs = {row_name(row): row_name(Row("sparse", row.cloud_ms)) for row in intended.rows if row.policy != "sparse"}
    return {
        name: difference_ci(per_episode[sparse][metric], per_episode[name][metric])
        for name, sparse in pairs.items()
        if sparse in per_episode
    }


def _columns(episodes: Episodes) -> dict[str, Any]:
    columns = {"action": episodes.action, "reward": episodes.reward, **episodes.record}
    columns["decision_ms"] = episodes.decision_ms
    return columns if episodes.return_to_go is None else {**columns, "return_to_go": episodes.return_to_go}


def _notes(intended: Plan, played: Mapping[str, Episodes]) -> list[str]:
    options = intended.config.replay
    notes = [
        "played by dash.js in Chromium; a row named +100ms asks an agent 100 ms away (there and back); sparse − this: of the "
        "same distance"
    ]
    own = max(overhead(played[row_name(row)], row.cloud_ms) for row in intended.rows)
    notes.append(
        f"requests, rule and decisions took up to {own:.1%} of a row's time beyond link and distance"
        + (
            ""
            if own < TOO_BUSY
            else ": this machine was too slow or too busy, so these are not the figures of a player; "
            "play at replay.speed=1, with fewer replay.sessions, or when it has cores to spare"
        )
    )
    if options.speed != 1:
        notes.append(
            f"at {options.speed:g} times the pace of the clock: the time of a decision and of the page weighs as much more"
        )
    return notes
