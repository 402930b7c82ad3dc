"""The policies that decide where the model does not, as a bundle describes them: `manifest.extra["fallback"]`.

A bundle names a kind of KINDS with its options, never code. The policies are the template's own baselines, so that both
decide equally; only BBA, which does not look at the level that plays, goes no higher than that in its first decision after
one of the model's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from edgenetllm.edge.networks import Networks
from edgenetllm.errors import UserError
from edgenetllm.tasks.abr.data.ladder import Ladder
from edgenetllm.tasks.abr.policies.bba import Bba
from edgenetllm.tasks.abr.policies.mpc import Mpc, OneVideo
from edgenetllm.tasks.cjs.policies import rules
from edgenetllm.tasks.cjs.policies.baselines import Rule
from edgenetllm.tasks.cjs.policies.wide_rule import WIDE_WEIGHTS
from edgenetllm.tasks.common.edge import Columns
from edgenetllm.tasks.observation import Array, Observation, Ragged
from edgenetllm.tasks.supervised.networks.edge import MOST
from edgenetllm.tasks.supervised.policies.rules import Still

LEAST_MBPS = 1e-6  # for a measured throughput of zero


class Decides(Protocol):
    """The part of a policy that a fall-back needs."""

    def start(self, episodes: int) -> None: ...

    def act(self, observation: Observation) -> Array: ...


class Kind(NamedTuple):
    """A kind of fall-back: how it is made from its options, and what it reads of an observation."""

    make: Callable[[Mapping[str, Any]], Callable[[], Decides]]
    plain: tuple[str, ...]
    ragged: tuple[str, ...] = ()
    remembers: bool = False  # it keeps a history, and so sees every decision
    # What becomes of its action in a decision whose predecessor was the model's.
    enter: Callable[[Array, Observation], Array] | None = None


class Weights(NamedTuple):
    """The numbers of a form of QoE that planning needs."""

    name: str
    quality: Array  # (levels,)
    rebuffer_penalty: float
    switch_penalty: float


def _bba(options: Mapping[str, Any]) -> Callable[[], Decides]:
    levels, reservoir, cushion = int(options["levels"]), float(options["reservoir_s"]), float(options["cushion_s"])
    if levels < 2 or not 0 <= reservoir < 1e4 or not 0 < cushion < 1e4:
        raise ValueError(f"levels={levels}, reservoir_s={reservoir}, cushion_s={cushion}")
    return lambda: Bba(reservoir, cushion, levels)


class _Planner:
    """robustMPC over the chunks of the video that the bundle was made for, counted from its end."""

    def __init__(self, mpc: Mpc) -> None:
        self.mpc, self.chunks, self.levels = mpc, mpc.videos.tables.shape[2], mpc.levels

    def start(self, episodes: int) -> None:
        self.mpc.start(episodes)

    def act(self, observation: Observation) -> Array:
        chunk = self.chunks - np.asarray(observation["chunks_left"], np.int64)
        return self.mpc.act(
            {
                **observation,
                "throughput_mbps": np.maximum(observation["throughput_mbps"], LEAST_MBPS),
                "chunk_index": np.clip(chunk, 0, self.chunks - 1),
                "video": np.zeros(len(chunk), np.int64),
            }
        )


def _mpc(options: Mapping[str, Any]) -> Callable[[], Decides]:
    sizes, quality = np.array(options["sizes"], np.int64), np.array(options["quality"], np.float64)
    ladder = Ladder(tuple(options["bitrates_kbps"]), float(options["chunk_s"]))
    penalties = float(options["rebuffer_penalty"]), float(options["switch_penalty"])
    constants = float(options["bandwidth_scale"]), float(options["error_weight"])
    if sizes.ndim != 2 or not (sizes > 0).all() or not len(sizes) == len(quality) == ladder.levels:
        raise ValueError(f"sizes {sizes.shape}, quality {quality.shape}, {ladder.levels} bitrates")
    if not np.isfinite([*quality, *penalties, *constants]).all() or constants[0] <= 0 or constants[1] < 0:
        raise ValueError(f"quality {quality.tolist()}, penalties {penalties}, constants {constants}")
    video, qoe = OneVideo(sizes[None], ladder), Weights(str(options["qoe"]), quality, *penalties)
    return lambda: _Planner(Mpc("robustmpc", video, qoe, *constants))


def _rule(kind: int, count: int) -> Callable[[Mapping[str, Any]], Callable[[], Decides]]:
    def make(options: Mapping[str, Any]) -> Callable[[], Decides]:
        weights = np.array(options["weights"], np.float64)
        if weights.shape != (count,) or not np.isfinite(weights).all():
            raise ValueError(f"weights {weights.shape}, and there must be {count} finite numbers")
        return lambda: Rule("fallback", kind, weights)

    return make


def _still(options: Mapping[str, Any]) -> Callable[[], Decides]:
    rows, places = int(options["rows"]), [int(place) for place in options["places"]]
    periods = [float(period) for period in options["periods"]]
    if not 1 <= rows <= MOST or not len(places) == len(periods) > 0 or not np.isfinite(periods).all():
        raise ValueError(f"rows={rows}, places={places}, periods={periods}")
    return lambda: Still(rows, places, periods)


def _no_jump(action: Array, observation: Observation) -> Array:
    """The level that plays, where a policy that does not look at it would go higher.

    The model is likely to decide again next time, with another idea of the level: up and down again costs two changes.
    """
    return np.minimum(action, observation["last_quality"])


CLUSTER = ("committable", "source_job", "executors")
KINDS: dict[str, Kind] = {
    "abr_bba": Kind(_bba, ("buffer_s", "last_quality"), enter=_no_jump),
    "abr_mpc": Kind(_mpc, ("throughput_mbps", "buffer_s", "last_quality", "chunks_left"), remembers=True),
    "cjs_capped": Kind(_rule(rules.CAPPED, 2), CLUSTER, ("stages", "jobs")),
    "series_still": Kind(_still, ("history",)),
    "cjs_wide": Kind(_rule(rules.WIDE, len(WIDE_WEIGHTS)), CLUSTER, ("stages", "jobs")),
}


class Fallback:
    """A fall-back policy in one episode."""

    def __init__(self, name: str, kind: Kind, policy: Decides) -> None:
        self.name, self.kind, self.policy = name, kind, policy
        self.remembers = kind.remembers
        policy.start(1)

    def decide(self, observation: Mapping[str, Any], columns: Columns, after_model: bool = False) -> Array:
        """The action (1, ...) on an observation that was read; numbers are taken as they were given, rows from `columns`.

        `after_model`: the decision before this one was the model's.
        """
        given: Observation = {}
        for name in self.kind.plain:
            given[name] = np.asarray(observation[name]).reshape(columns[name].shape)
        for name in self.kind.ragged:
            given[name] = Ragged(columns[name], columns[f"{name}_count"])
        action = self.policy.act(given)
        return self.kind.enter(action, given) if after_model and self.kind.enter is not None else action


@dataclass(frozen=True)
class Fallbacks:
    """The fall-back policy that was chosen of those of a bundle; `start` begins it in an episode."""

    name: str
    kind: Kind
    make: Callable[[], Decides]

    def check(self, networks: Networks) -> None:
        """Raises UserError where it reads what the encoder does not, or decides what that has no tokens for."""
        if absent := sorted({*self.kind.plain, *self.kind.ragged} - set(networks.encoder.inputs)):
            raise UserError(f"the bundle's fall-back {self.name} reads {absent[0]}, which its observations do not have")
        levels, actions = getattr(self.make(), "levels", None), getattr(networks.encoder, "actions", None)
        if None not in (levels, actions) and actions != ("a choice of", levels):
            raise UserError(
                f"the bundle's fall-back {self.name} decides among {levels} levels, its encoder takes {actions}"
            )

    def start(self) -> Fallback:
        return Fallback(self.name, self.kind, self.make())


def fallback_of(extra: Mapping[str, Any], task: str, name: str | None = None) -> Fallbacks:
    """The fall-back policy of this name of a task, else its default; `extra` is that of the manifest.

    Raises UserError for a bundle that has none, or none of this name, or describes it so that it cannot be made.
    """
    described = extra.get("fallback")
    own: Any = described.get(task) if isinstance(described, dict) else None
    policies: Any = own.get("policies") if isinstance(own, dict) else None
    if not isinstance(policies, dict) or not policies:
        raise UserError(
            f"the bundle has no fall-back policy for task {task}: export it again with this version (prune.py run=RUN), or "
            "leave edge.* (or the options of serve) away"
        )
    chosen = own.get("default") if name is None else name
    if not isinstance(chosen, str) or chosen not in policies:
        raise UserError(
            f"edge.fallback={chosen!r:.60} (--fallback): the bundle has {', '.join(map(str, policies))} for task {task}"
        )
    options = policies[chosen]
    kind = options.get("kind") if isinstance(options, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError(f"the bundle's fall-back {chosen} is of kind {kind!r:.60}; there are {', '.join(KINDS)}")
    try:
        return Fallbacks(chosen, KINDS[kind], KINDS[kind].make(options))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"the bundle's fall-back {chosen} cannot be as its manifest says ({error!r:.200})") from None
