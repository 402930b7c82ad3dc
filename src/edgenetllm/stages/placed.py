"""The rows of a placement: decisions of a run's model that take the time of where they are made, see edgenetllm.placement."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgenetllm.config import Config, TaskConfig
from edgenetllm.edge.agent.outside import outside_of
from edgenetllm.edge.bundle import Bundle, read_bundle
from edgenetllm.edge.engines.compiled import CompiledEngine, runs_without_torch
from edgenetllm.edge.engines.engine import EngineSession
from edgenetllm.edge.engines.session import DecoderSession
from edgenetllm.edge.engines.torch import TorchEngine
from edgenetllm.edge.networks import build_networks
from edgenetllm.edge.observation import Reader
from edgenetllm.edge.policy import width_of
from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.models.session import Session
from edgenetllm.placement.link import LinkTrace
from edgenetllm.placement.placements import Adaptive, Cloud, Edge, Linked, Shared, Split
from edgenetllm.placement.player import Asking, AtEdge, Decider, EngineTimes, InCloud, Mask, PlacedPlayer, Unsure
from edgenetllm.report.results import Latency, Placed, PlacedRow, latency
from edgenetllm.stages.guarded import has_counterparts
from edgenetllm.tasks.abr.task import AbrTask
from edgenetllm.tasks.common.edge import EdgeEncoder
from edgenetllm.tasks.task import Observation, Ragged, WaitingEnvironment


def check_placement(config: Config) -> None:
    """Raises UserError, before anything expensive, for a placement that could not be played."""
    placement = config.placement
    if not placement.rtts_ms:
        return
    placement.fingerprint()  # reads the traces of its link
    if isinstance(placement, Adaptive) and not isinstance(config.engine, CompiledEngine | TorchEngine):
        raise UserError(
            f"placement=adaptive: engine={config.engine.name} cannot play an episode in which others decide too: type "
            "engine=compiled or engine=torch"
        )
    for name, task in config.task_objects.items():
        if not isinstance(task.environment("test"), WaitingEnvironment):
            raise UserError(f"placement={placement.name}: the environment of task={name} cannot wait for a decision")
        if isinstance(placement, Adaptive) and placement.ask == "outside" and not has_counterparts(task):
            raise UserError(
                f"placement=adaptive: the guard needs an encoder that runs without torch (for_edge), which task={name} has "
                "not: type placement.ask=always"
            )


def clock_notes(config: TaskConfig) -> list[str]:
    """A sentence on decisions that are delayed under a clock that knows of no other delays; none where there is nothing."""
    task, placement = config.task, config.placement
    if not placement.rtts_ms or not isinstance(task, AbrTask) or task.clock != "public":
        return []
    return [
        "decisions move the trace's clock, but round trips to the video server do not: task.clock=real moves it by all"
    ]


@dataclass
class Rows:
    """The checked settings with which the rows of a placement are played."""

    config: TaskConfig
    traces: list[LinkTrace]
    inputs: Collection[str] | None  # that the encoder reads; None: not known, all of the observation
    unsure: Unsure | None
    bundle: EngineSession  # the sparse policy in the run's engine
    apart: Session | None  # the same for `adaptive`, whose actions are not always taken
    dense: Session

    def play(self, times: EngineTimes) -> dict[str, tuple[PlacedPlayer, Episodes]]:
        """Row -> its player and the test episodes, one row for each round trip time."""
        task, placement = self.config.task, self.config.placement
        rows: dict[str, tuple[PlacedPlayer, Episodes]] = {}
        for rtt_ms in placement.rtts_ms:
            seeds, environment = task.seeds("test"), task.environment("test")
            assert isinstance(environment, WaitingEnvironment)
            link = placement.link(rtt_ms, self.traces) if isinstance(placement, Linked) else None
            decider: Decider
            if isinstance(placement, Cloud | Split):
                assert link is not None
                decider = InCloud(placement, self.dense, times, link, self.inputs)
            elif isinstance(placement, Adaptive):
                assert link is not None
                assert self.apart is not None
                decider = Asking(placement, self.apart, self.dense, times, link, self.unsure, self.inputs)
            else:
                decider = AtEdge(self.bundle, times)
            player = PlacedPlayer(placement.row(rtt_ms), decider, link, seeds)
            player.elapsed_s = environment.elapsed_s
            rows[player.name] = player, play(environment, seeds, player, wait=player.wait_s)
        return rows


def placed_rows(
    config: TaskConfig, bundle: Path, edge: EngineSession, reference: Session, dense: Session
) -> Rows | None:
    """The rows of the run's placement; None without one.

    `edge` is the bundle in the run's engine, `reference` in torch. Raises UserError for a bundle whose guard is needed and
    absent.
    """
    placement, task = config.placement, config.task
    if not placement.rtts_ms:
        return None
    stored = read_bundle(bundle)
    encoder = encoder_of(stored, task.name, bundle)
    unsure, apart = None, None
    if isinstance(placement, Adaptive):
        if placement.ask == "outside":
            if encoder is None:
                raise UserError(
                    f"placement=adaptive: {bundle} does not describe the encoder of task={task.name}, which the guard reads: "
                    "export it again (prune.py run=RUN), or type placement.ask=always"
                )
            unsure = unsure_of(stored, task.name, encoder)
        apart = _session_of(config, stored, edge, reference)
    traces = placement.read() if isinstance(placement, Linked) else []
    return Rows(config, traces, None if encoder is None else encoder.inputs, unsure, edge, apart, dense)


def encoder_of(stored: Bundle, task: str, bundle: Path) -> EdgeEncoder | None:
    """The encoder that the bundle describes; None where it describes none."""
    if not runs_without_torch(stored, task):
        return None
    return build_networks(stored, task, width_of(stored, str(bundle)), str(bundle)).encoder


def _session_of(config: TaskConfig, stored: Bundle, edge: EngineSession, reference: Session) -> Session:
    """The bundle in the run's engine as a session of torch networks, whose actions can be replaced."""
    if isinstance(edge, Session):
        return edge
    assert isinstance(config.engine, CompiledEngine)
    decoder = config.engine.decoder(stored)
    label = f"{config.engine.label} {decoder.instructions}"
    return DecoderSession(reference.policy, reference.target_return, decoder, label, reference.sample_seed)


def unsure_of(stored: Bundle, task: str, encoder: EdgeEncoder) -> Unsure:
    """The guard of a bundle, for many episodes. Raises UserError for a bundle without."""
    outside, reader = outside_of(stored.manifest.extra, task, encoder.inputs), Reader(encoder, 1, False)

    def unsure(observation: Observation) -> Mask:
        count = len(next(value for value in observation.values() if not isinstance(value, Ragged)))
        return np.array([outside(reader.read(_one(observation, episode))) for episode in range(count)], bool)

    return unsure


def _one(observation: Observation, episode: int) -> dict[str, object]:
    """The observation of one episode, with its dimension."""
    one = slice(episode, episode + 1)
    return {
        name: Ragged(value.values[one], value.count[one]) if isinstance(value, Ragged) else value[one]
        for name, value in observation.items()
    }


def engine_times(config: TaskConfig, measured: Mapping[str, Latency]) -> EngineTimes:
    """The times that are given, else the medians `measured`: of the run's engine, and of the dense model in torch."""
    placement = config.placement
    given = placement if isinstance(placement, Shared) else None
    edge_ms, cloud_ms = (None, None) if given is None else (given.edge_ms, given.cloud_ms)
    return EngineTimes(
        measured[f"{config.engine.label} sparse"].median if edge_ms is None else edge_ms,
        measured["torch dense"].median if cloud_ms is None else cloud_ms,
    )


def describe_placed(
    config: TaskConfig, rows: Rows, times: EngineTimes, played: Mapping[str, tuple[PlacedPlayer, Episodes]]
) -> Placed:
    """The `placement` field of results, over the decisions that were really taken."""
    placement = config.placement
    described = {}
    for rtt_ms, (name, (player, episodes)) in zip(placement.rtts_ms, played.items(), strict=True):
        means = {
            field: float(player.column(field)[episodes.valid].mean())
            for field in ("up_bytes", "down_bytes", "asked", "late")
        }
        seconds = player.column("seconds")[episodes.valid]
        described[name] = PlacedRow(rtt_ms=rtt_ms, latency_ms=latency(1000 * seconds), **means)
    linked = placement if isinstance(placement, Linked) else None
    return Placed(
        name=placement.name,
        rows=described,
        edge_ms=times.edge_ms if isinstance(placement, Edge | Adaptive) else None,
        cloud_ms=None if linked is None else times.cloud_ms,
        traces=None if linked is None else linked.traces,
        trace_count=len(rows.traces),
        loss=0.0 if linked is None else linked.loss,
    )
