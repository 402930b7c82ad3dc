"""The time of one decision on the CPU, as at the edge: of the chosen engine and of torch, sparse and dense."""

from __future__ import annotations

from pathlib import Path

from edgenetllm.config import TaskConfig
from edgenetllm.edge.engines.engine import EngineSession
from edgenetllm.edge.export import export_policy, policy_name
from edgenetllm.edge.replay import decision_times
from edgenetllm.files import temporary_folder
from edgenetllm.models.decoder import prunable_layers
from edgenetllm.models.policy import PolicyNetwork
from edgenetllm.models.session import Session
from edgenetllm.report.results import Latency, latency
from edgenetllm.tasks.names import GUARDED


def decision_latencies(
    config: TaskConfig,
    folder: Path,
    sparse: EngineSession,
    torch_sparse: Session,
    dense: Session,
    guarded: EngineSession | None = None,
) -> dict[str, Latency]:
    """Engine and policy (`compiled sparse`, `torch dense`, ...) -> milliseconds of a decision, the chosen engine first.

    `sparse` is the bundle in the chosen engine, `torch_sparse` in torch, `guarded` as an agent plays it. The dense model of
    another engine than torch is the one of `dense` in int8, loaded from a bundle that lies in `folder` for as long as it is
    needed.
    """
    sessions: dict[str, EngineSession] = {}
    if sparse is not torch_sparse:
        sessions = {
            f"{config.engine.label} sparse": sparse,
            f"{config.engine.label} dense": _dense_int8(config, folder, dense),
        }
    if guarded is not None:
        sessions[f"{config.engine.label} {GUARDED}"] = guarded
    sessions |= {"torch sparse": torch_sparse, "torch dense": dense}
    for session in sessions.values():
        decision_times(config.task, "test", session, 2)  # the first decisions compile, and read everything once
    count = config.engine.latency_decisions
    return {name: latency(decision_times(config.task, "test", one, count)) for name, one in sessions.items()}


def _dense_int8(config: TaskConfig, folder: Path, dense: Session) -> EngineSession:
    """The dense model in the chosen engine, its matrices in int8 without a mask."""
    policy: PolicyNetwork = dense.policy
    with temporary_folder(folder / "dense") as place:
        bundle = place / "bundle"
        export_policy(
            policy,
            bundle,
            matrices=[policy_name(name) for name in prunable_layers(policy.decoder)],
            adapter=None,
            target_returns={config.task.name: float(dense.target_return)},
            parent={},
            values="int8",
            mask="none",
        )
        return config.engine.load(bundle, config.task, dense.sample_seed)
