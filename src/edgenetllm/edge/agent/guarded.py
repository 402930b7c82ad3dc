"""A policy with a net below it: where the model raises, gives no number, is late or has never seen the like, another decides.

    policy = guarded(edge.load("bundle/"), Safety(deadline_ms=20, guard=True))
    session = policy.start()
    action = session.decide(observation)
    session.outcome                     # Outcome(by="fallback", reason="deadline", ms=20.1)
    session.observe(reward)

A session goes on whatever happens, and returns to the model at the next decision (see `episode.py`). An observation that is
not understood (a name that is missing, another shape, NaN) is no fault: it is refused with UserError, and nothing changes.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from edgenetllm.edge.agent.episode import ModelOfEpisode, Step, Thought
from edgenetllm.edge.agent.fallback import Fallback, Fallbacks, fallback_of
from edgenetllm.edge.agent.faults import Faults, FaultyDecoder, OddObservations
from edgenetllm.edge.agent.outside import Outside, outside_of
from edgenetllm.edge.agent.workers import Workers
from edgenetllm.edge.observation import as_array
from edgenetllm.edge.policy import Policy, Session, read_reward
from edgenetllm.errors import NotFinite, UserError
from edgenetllm.tasks.common.edge import Columns
from edgenetllm.tasks.observation import Array, Ragged

Reason = Literal["raised", "not_finite", "deadline", "outside"]
REASONS: tuple[Reason, ...] = ("raised", "not_finite", "deadline", "outside")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Safety:
    """Options of a guarded policy, the section `edge` of the configuration.

    After `deadline_ms` the fall-back decides; None: the model is waited for. With `guard`, it also decides on observations
    outside of what the bundle was trained on. `fallback` is one of the bundle's policies, by name; None: its default. On an
    observation outside the default decides in any case: it reads no measured throughput or time, which may be what is wrong.
    """

    deadline_ms: float | None = None
    guard: bool = False
    fallback: str | None = None
    faults: Faults | None = None  # on purpose: for tests and benchmarks

    def __post_init__(self) -> None:
        if self.deadline_ms is not None and not 0 < self.deadline_ms < 1e7:
            raise UserError(
                f"edge.deadline_ms={self.deadline_ms!r:.40} (--deadline-ms) must be milliseconds above zero"
            )


class Outcome(NamedTuple):
    """The decider of a decision, why it was not the model (None where it was), and the milliseconds that it took."""

    by: Literal["model", "fallback"]
    reason: Reason | None
    ms: float


def guarded(policy: Policy, safety: Safety | None = None) -> GuardedPolicy:
    """A policy of `edge.load` with the fall-back and the guard that its bundle describes.

    Raises UserError for a bundle without a fall-back policy, or with one that does not fit its networks, and with `guard` for
    one without what the guard needs.
    """
    safety = safety or Safety()
    fallback = fallback_of(policy.extra, policy.task, safety.fallback)
    careful = fallback_of(policy.extra, policy.task)
    for one in (fallback, careful):
        one.check(policy.networks)
    outside = outside_of(policy.extra, policy.task, policy.networks.encoder.inputs) if safety.guard else None
    return GuardedPolicy(policy, safety, fallback, careful, outside)


class GuardedPolicy:
    """A policy whose sessions always answer; it is used as `policy` is."""

    def __init__(
        self, policy: Policy, safety: Safety, fallback: Fallbacks, careful: Fallbacks, outside: Outside | None = None
    ) -> None:
        if safety.faults is not None:
            policy = Policy(policy.task, FaultyDecoder(policy.decoder, safety.faults), policy.networks, policy.extra)
        self.policy, self.safety, self.outside = policy, safety, outside
        self.fallback, self.careful = fallback, careful  # careful: on observations outside
        self.task, self.networks = policy.task, policy.networks
        self.workers = None if safety.deadline_ms is None else Workers()
        self.disturb = None if safety.faults is None else OddObservations(safety.faults)
        self.warned: set[Reason] = set()  # reasons that are in the log already

    def start(self, episodes: int | None = None, sample_seed: int | None = None) -> GuardedSession:
        """A session of `episodes`, or of one that needs no dimension for them (None), as `Policy.start` gives it.

        Each of several decides alone, in turn: what goes wrong in one changes nothing in another.
        """
        if episodes is not None and (isinstance(episodes, bool) or not isinstance(episodes, int) or episodes < 1):
            raise UserError(f"start({episodes!r}): give a number of episodes of at least 1, or none for a single one")
        return GuardedSession(self, episodes, sample_seed)


class GuardedSession:
    """Episodes of a guarded policy: `decide` and `observe` in turn, then `outcome` says who decided.

    `events` counts reasons. `outcome` is an Outcome, or a list of them where there are several episodes.
    """

    def __init__(self, policy: GuardedPolicy, episodes: int | None, sample_seed: int | None = None) -> None:
        self.policy, self.networks, self.single = policy, policy.networks, episodes is None
        seeds: list[Any] = [sample_seed]
        if episodes is not None:
            seeds = [None if sample_seed is None else [sample_seed, number] for number in range(episodes)]
        self.episodes = [GuardedEpisode(policy, seed) for seed in seeds]

    @property
    def step(self) -> int:
        """Decisions so far."""
        return self.episodes[0].session.step

    @property
    def return_to_go(self) -> float | Array | None:
        """The return-to-go that is left, a number or (episodes,); None in a task that is not conditioned."""
        if not self.networks.conditioned:
            return None
        left = np.array([episode.session.return_to_go for episode in self.episodes])
        return float(left[0]) if self.single else left

    @property
    def outcome(self) -> Any:
        """The Outcome of the last decision, or of each episode."""
        outcomes = [episode.outcome for episode in self.episodes]
        return outcomes[0] if self.single else outcomes

    @property
    def events(self) -> Counter[Reason]:
        """The number of decisions of the fall-back by reason."""
        total: Counter[Reason] = Counter()
        for episode in self.episodes:
            total.update(episode.events)
        return total

    def decide(self, observation: Mapping[str, Any]) -> Any:
        """The action for this observation. Raises UserError, changing nothing, where it is not understood or too late."""
        if self.single:
            return self.episodes[0].decide(observation)
        parts = [_of_one(observation, number, len(self.episodes)) for number in range(len(self.episodes))]
        read = [episode.read(part) for episode, part in zip(self.episodes, parts, strict=True)]  # all, or none decides
        return np.stack([episode.answer(*one) for episode, one in zip(self.episodes, read, strict=True)])

    def observe(self, reward: Any) -> None:
        """Subtract the reward, a number or (episodes,), from the return-to-go, as `Session.observe` does."""
        rewards = read_reward(reward, len(self.episodes), self.single)
        for episode, one in zip(self.episodes, rewards.reshape(-1), strict=True):
            episode.session.observe(one)


class GuardedEpisode:
    """One episode: the model thinks, and where it does not come to a decision the fall-back takes it."""

    def __init__(self, policy: GuardedPolicy, sample_seed: Any) -> None:
        self.policy = policy
        self.session = Session(policy.policy, None, sample_seed)
        self.model = ModelOfEpisode(self.session)
        self.fallback: Fallback = policy.fallback.start()
        same = policy.careful.name == policy.fallback.name
        self.careful: Fallback = self.fallback if same else policy.careful.start()
        self.outcome: Outcome | None = None
        self.events: Counter[Reason] = Counter()

    def decide(self, observation: Mapping[str, Any]) -> Any:
        """The action for this observation, as `Session.decide` of one episode gives it."""
        return self.answer(*self.read(observation))

    def read(self, observation: Mapping[str, Any]) -> tuple[Mapping[str, Any], Columns]:
        """An observation, odd where faults on purpose make it so, and its columns. Raises UserError as `Session.read`."""
        if self.policy.disturb is not None:
            observation = self.policy.disturb(observation)
        return observation, self.session.read(observation)

    def answer(self, observation: Mapping[str, Any], columns: Columns) -> Any:
        """The action for an observation that was read."""
        began = time.perf_counter()
        deadline_ms, outside = self.policy.safety.deadline_ms, self.policy.outside
        step = self.model.step(columns, copy=deadline_ms is not None)
        reason: Reason | None = "outside" if outside is not None and outside(columns) else None
        # A fall-back with a history sees every decision; and at the deadline there is no time left to ask one.
        net, after_model = self._net(reason), self.outcome is not None and self.outcome.by == "model"
        others = {
            one: one.decide(observation, columns, after_model)
            for one in {self.fallback, self.careful}
            if one.remembers or (one is net and deadline_ms is not None)
        }
        # The model decides, also where its action will not count: it shall see what happened.
        if deadline_ms is None:
            action, failure = _result(self.model.think(step))
        else:
            action, failure = self._in_time(step, began + deadline_ms / 1000, wait=reason is None)
        reason = reason or failure
        if action is None or reason is not None:
            other = others.get(net)
            action = net.decide(observation, columns, after_model) if other is None else other
        # It goes on from what is really done.
        step.action = action
        thought = self.model.thought
        if thought is None or thought.steps[-1] is not step:
            self.model.miss(step)
        elif thought.ended:
            self.model.settle()
        self.session.step += 1
        self._note(reason, 1000 * (time.perf_counter() - began), step)
        return self.session.plain(action)

    def _net(self, reason: Reason | None) -> Fallback:
        """The policy that decides for this reason."""
        return self.careful if reason == "outside" else self.fallback

    def _in_time(self, step: Step, end: float, wait: bool) -> tuple[Array | None, Reason | None]:
        """The model's action, or the reason that there is none by the time `end`; with `wait` False it only begins."""
        model, workers = self.model, self.policy.workers
        assert workers is not None
        if model.thought is not None:  # still at an earlier decision
            if not (model.thought.ends_by(end) if wait else model.thought.ended):
                return None, "deadline"
            model.settle()
        thought = model.think(step, workers.submit)
        if not wait:
            return None, None
        return _result(thought) if thought.ends_by(end) else (None, "deadline")

    def _note(self, reason: Reason | None, ms: float, step: Step) -> None:
        """Keep and count what happened; the first event of each reason is a warning in the log, others are details."""
        self.outcome = Outcome("model" if reason is None else "fallback", reason, ms)
        if reason is None:
            return
        self.events[reason] += 1
        level = logging.DEBUG if reason in self.policy.warned else logging.WARNING
        self.policy.warned.add(reason)
        if log.isEnabledFor(level):
            text = self._explain(reason, step)
            log.log(level, "decision %d: the fall-back %s decides: %s", step.number, self._net(reason).name, text)

    def _explain(self, reason: Reason, step: Step) -> str:
        if reason == "outside" and self.policy.outside is not None:
            return self.policy.outside.why(step.columns)
        if reason == "deadline":
            return f"no answer within {self.policy.safety.deadline_ms:g} ms"
        return f"{reason} ({self.model.last_error!r:.200})"


def _result(thought: Thought) -> tuple[Array | None, Reason | None]:
    """The action of a thought that has ended, or what was wrong."""
    if thought.error is None:
        return thought.action, None
    return None, "not_finite" if isinstance(thought.error, NotFinite) else "raised"


def _of_one(observation: Mapping[str, Any], number: int, episodes: int) -> dict[str, Any]:
    """The observation of one of several episodes. Raises UserError where a value is not of so many."""
    if not isinstance(observation, Mapping):
        raise UserError(f"an observation is a mapping of names to values, not {type(observation).__name__}")
    part: dict[str, Any] = {}
    for name, value in observation.items():
        rows = value.count if isinstance(value, Ragged) else as_array(value, f"observation: {name}")
        if np.shape(rows)[:1] != (episodes,):
            raise UserError(f"observation: {name} has shape {np.shape(rows)}, and there are {episodes} episodes")
        if isinstance(value, Ragged):
            part[name] = Ragged(
                value.values[number : number + 1, : max(1, value.count[number])], rows[number : number + 1]
            )
        else:
            part[name] = rows[number]
    return part
