"""The sessions of `replay=player`: which, those that were played before, and what the simulator says of the same ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from edgenetllm.code_identity import code_identity
from edgenetllm.config import TaskConfig
from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.files import sha256_of
from edgenetllm.hashed import store_file, stored_file
from edgenetllm.printable import say
from edgenetllm.progress import tqdm
from edgenetllm.report.played import ComparedRow
from edgenetllm.stages.identity import Player, replay_hashes
from edgenetllm.tasks.abr import player
from edgenetllm.tasks.abr.player.browser import version_of
from edgenetllm.tasks.abr.player.compared import COMPARED, differences, predict, simulate
from edgenetllm.tasks.abr.player.link import Link
from edgenetllm.tasks.abr.player.replay import Job, PlayerOptions, Record, play_sessions
from edgenetllm.tasks.abr.player.session import ROUND_TRIP_S, Video
from edgenetllm.tasks.abr.simulator.core import Clock
from edgenetllm.tasks.abr.simulator.environment import AbrEnvironment
from edgenetllm.tasks.task import Policy, identity_of

CODE = ("edgenetllm.tasks.abr.player.replay", "edgenetllm.tasks.abr.player.server")
NOT_RECORDED = ("action", "reward", "return_to_go", "decision_ms")  # columns that every replay has


@dataclass(frozen=True)
class Row:
    """A policy that decides a round trip of `cloud_ms` milliseconds away: a row of the results."""

    policy: str
    cloud_ms: float


def row_name(row: Row) -> str:
    """`sparse`, or with a round trip `sparse+100ms`."""
    return row.policy if row.cloud_ms == 0 else f"{row.policy}+{row.cloud_ms:g}ms"


@dataclass(frozen=True)
class Plan:
    """The rows to play, each over the same test episodes; browser None: the user's own."""

    config: TaskConfig
    rows: Sequence[Row]
    episodes: Sequence[int]
    browser: str | None

    @property
    def chunk_s(self) -> float:
        return self.environment.videos.ladder.chunk_s

    @cached_property
    def environment(self) -> AbrEnvironment:
        environment = self.config.task.environment("test")
        assert isinstance(environment, AbrEnvironment)
        return environment

    def with_clock(self, clock: Clock) -> AbrEnvironment:
        """The simulator on the test traces, with a clock that may be another than `task.clock`."""
        environment = self.config.task.environment("test")
        assert isinstance(environment, AbrEnvironment)
        environment.clock = clock
        return environment

    @cached_property
    def video(self) -> Video:
        videos = self.environment.videos
        return Video(videos.tables[0], videos.ladder, self.environment.qoe)

    def link(self, episode: int) -> Link:
        traces = self.environment.traces
        begin, end = traces.offsets[episode], traces.offsets[episode + 1]
        return Link(traces.time_s[begin:end], traces.mbps[begin:end], int(traces.starts[episode]))


def browser_facts(plan: Plan) -> dict[str, Any]:
    """Everything but the policy and the trace that a session depends on: the browser, the page, our code."""
    folder = Path(player.__file__).parent
    pages = [*sorted((folder / "page").iterdir()), *sorted((folder / "dashjs").glob("*.js"))]
    return {
        "chromium": "of the user" if plan.browser is None else version_of(plan.browser),
        "page": {path.name: sha256_of(path)[:16] for path in pages},
        "code": code_identity(*CODE),
    }


def play_rows(plan: Plan, policies: Mapping[str, Policy]) -> dict[str, Episodes]:
    """The name of each row -> its sessions; those of an earlier call, kept in `paths.cache_dir`, are not played again."""
    # Sessions by their identity; those that are stored.
    files = _files(plan, policies)
    records: dict[str, Record] = {}
    for name, path in files.items():
        if (data := stored_file(path)) is not None:
            records[name] = json.loads(data)
    if records:
        say(f"player: {len(records)} of {len(files)} sessions were played before")
    # The others, each stored as soon as it is done.
    jobs = [
        Job(name, policies[row.policy], plan.link(episode), row.cloud_ms / 1000)
        for name, (row, episode) in _sessions(plan).items()
        if name not in records
    ]
    options = plan.config.replay
    settings = PlayerOptions(plan.browser, options.speed, options.sessions, options.port, options.show)
    _warm_up(plan, {job.policy.name: job.policy for job in jobs})
    progress = plan.config.callbacks.progress
    with tqdm(total=len(files), initial=len(records), desc="player", unit="session", disable=not progress) as bar:

        def finished(job: Job, record: Record) -> None:
            records[job.name] = record
            store_file(files[job.name], json.dumps(record).encode())
            bar.set_postfix_str(job.name)
            bar.update()

        if jobs:
            play_sessions(jobs, plan.video, settings, finished)
    return {
        row_name(row): episodes_of([records[_session_name(row, episode)] for episode in plan.episodes])
        for row in plan.rows
    }


def episodes_of(records: Sequence[Record]) -> Episodes:
    """Sessions as the simulator would give them: chunk 0 is no decision, and left out. Columns are (episodes, decisions)."""
    names = records[0][0].keys()
    columns = {
        name: np.array([[float("nan") if row[name] is None else row[name] for row in record[1:]] for record in records])
        for name in names
    }
    returns = columns["return_to_go"]
    return Episodes(
        observation={},
        action=columns["action"].astype(np.int64),
        reward=columns["reward"],
        valid=np.ones(columns["reward"].shape, bool),
        record={
            name: column.astype(np.int64) if name in ("chunk_index", "bytes") else column
            for name, column in columns.items()
            if name not in NOT_RECORDED
        },
        target=None,
        return_to_go=None if np.isnan(returns).all() else returns,
        decision_ms=columns["decision_ms"],
    )


def overhead(sessions: Episodes, cloud_ms: float) -> float:
    """The fraction of the sessions' time that neither the link nor the agent's distance explains: it is the machine's."""
    record: Any = sessions.record
    download = record["delay_s"] - record["link_s"] - ROUND_TRIP_S
    between = record["waited_s"] - cloud_ms / 1000
    return float((download + between).sum() / (record["delay_s"] + record["waited_s"]).sum())


def compare(plan: Plan, played: Mapping[str, Episodes], policies: Mapping[str, Policy]) -> list[ComparedRow]:
    """Each row next to the simulator: with the player's own qualities, and with the policy's own decisions there."""
    names, episodes = plan.config.task.episode_names("test"), np.array(plan.episodes)
    public, real = plan.with_clock("public"), plan.with_clock("real")
    protocol = {name: predict(public, episodes, policy, 0.0) for name, policy in policies.items()}
    rows = []
    for row in plan.rows:
        sessions = played[row_name(row)]
        per_session = []
        for number, episode in enumerate(plan.episodes):
            record: Any = sessions.record
            own = {name: record[name][number] for name in COMPARED if name != "reward"}
            own["reward"] = sessions.reward[number]
            times = record["waited_s"][number], record["lag_s"][number]
            simulated = simulate(real, episode, sessions.action[number], *times)
            per_session.append({**differences(own, simulated), "simulated_reward": simulated["reward"]})
        columns = {name: np.stack([one[name] for one in per_session]) for name in per_session[0]}
        chosen = [names[episode] for episode in plan.episodes]
        expected = predict(real, episodes, policies[row.policy], row.cloud_ms / 1000)
        rows.append(
            ComparedRow(row_name(row), row.cloud_ms, chosen, sessions.reward, protocol[row.policy], expected, columns)
        )
    return rows


def _sessions(plan: Plan) -> dict[str, tuple[Row, int]]:
    """Name of each session -> its row and episode, all rows of a trace one after another."""
    return {_session_name(row, episode): (row, episode) for episode in plan.episodes for row in plan.rows}


def _session_name(row: Row, episode: int) -> str:
    return f"{row_name(row)}-{episode}"


def _files(plan: Plan, policies: Mapping[str, Policy]) -> dict[str, Path]:
    """The file of each session, by all that it depends on."""
    identities = {name: identity_of(policy) for name, policy in policies.items()}
    shared = {**browser_facts(plan), "speed": plan.config.replay.speed}
    players = {
        name: Player(
            {"policy": identities[row.policy], "episode": episode, "cloud_ms": row.cloud_ms, **shared},
            [type(policies[row.policy])],
        )
        for name, (row, episode) in _sessions(plan).items()
    }
    folder = plan.config.paths.cache_dir / "player"
    hashes = replay_hashes(plan.config, "test", players)
    return {name: folder / f"{plan.config.task.name}-{name}-{hashes[name]}.json" for name in players}


def _warm_up(plan: Plan, policies: Mapping[str, Policy]) -> None:
    """Two decisions of each policy: the first ones compile, which would be time of a session."""
    for policy in policies.values():
        play(plan.environment, np.array(plan.episodes[:1]), policy, limit=2)
