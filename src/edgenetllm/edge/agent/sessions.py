"""The sessions of an agent: opened, asked for decisions, closed or expired, within limits. Nothing here knows of HTTP.

`Sessions.decide` may run in another thread than the rest, one call at a time, between `begin` and `release`.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from edgenetllm.edge.agent.decision_log import DecisionLog
from edgenetllm.edge.agent.guarded import Outcome
from edgenetllm.edge.agent.logged import LoggedSession
from edgenetllm.edge.agent.metrics import Metrics
from edgenetllm.edge.agent.schema import last_step, to_arrays
from edgenetllm.edge.networks import Networks
from edgenetllm.edge.observation import Reader
from edgenetllm.edge.policy import Policy, Session
from edgenetllm.errors import UserError


class AgentSession(Protocol):
    """One episode of an AgentPolicy: it decides, observes rewards, and says how its last decision came about."""

    @property
    def outcome(self) -> Outcome: ...
    @property
    def return_to_go(self) -> Any: ...
    def decide(self, observation: Mapping[str, Any]) -> Any: ...
    def observe(self, reward: Any) -> None: ...


class AgentPolicy(Protocol):
    """The policy of a task that the agent serves: a GuardedPolicy, or `Unguarded`."""

    @property
    def networks(self) -> Networks: ...
    def start(self) -> AgentSession: ...


@dataclass(frozen=True)
class Limits:
    """Bounds of what clients may take."""

    sessions: int = 1000
    idle_s: float = 300  # a session that was not asked for so long expires
    age_s: float = 7200  # and so does one that is so old
    body_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name, least in (("sessions", 1), ("idle_s", 0), ("age_s", 0), ("body_bytes", 1)):
            value = getattr(self, name)
            if not value >= least:  # NaN too
                raise UserError(f"--{name.replace('_', '-')} {value} must be at least {least}")


class Refusal(Exception):
    """A request that is not served, with the HTTP status that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Decision(NamedTuple):
    """An action as JSON has it, and how it came about."""

    action: Any
    step: int
    by: str
    reason: str | None
    ms: float


@dataclass(eq=False)
class OpenSession:
    """A session of a client."""

    key: str  # what the client calls it by; cannot be guessed
    task: str
    session: AgentSession
    logged: LoggedSession | None  # around it
    opened: float  # by the clock of Sessions
    used: float
    steps: int = 0  # decisions so far
    busy: bool = False  # a decision is under way
    broken: bool = False  # the model failed, and there was no fall-back

    def end(self, done: bool) -> None:
        """Log the last decision; `done` says that the episode is over."""
        if self.logged is not None:
            self.logged.end(done)


class Sessions:
    """All sessions of the agent. `clock` gives seconds; expiry and `Refusal`s follow `limits`."""

    def __init__(
        self,
        policies: Mapping[str, AgentPolicy],
        limits: Limits | None = None,
        log: DecisionLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policies, self.limits, self.log, self.clock = dict(policies), limits or Limits(), log, clock
        self.metrics = Metrics()
        self._open: dict[str, OpenSession] = {}
        # Observations are checked before the reward counts, so that what is refused changes nothing.
        self._readers = {name: Reader(one.networks.encoder, 1, True) for name, one in self.policies.items()}
        self._ends = {name: last_step(one.networks) for name, one in self.policies.items()}

    def by_task(self) -> dict[str, int]:
        """The number of open sessions of each task."""
        return dict.fromkeys(self.policies, 0) | Counter(one.task for one in self._open.values())

    def open(self, task: str | None = None) -> OpenSession:
        """A new session. Raises Refusal 400 for a task that is not served, 429 where there are too many sessions."""
        if task is None and len(self.policies) > 1:
            raise Refusal(400, f"several tasks are served: say which, {self._names()}")
        name = next(iter(self.policies)) if task is None else task
        if name not in self.policies:
            raise Refusal(400, f"task {name!r:.80} is not served here, only {self._names()}")
        if len(self._open) >= self.limits.sessions:
            raise Refusal(
                429, f"{self.limits.sessions} sessions are open, no more are allowed: close some, or try later"
            )
        session, now = self.policies[name].start(), self.clock()
        logged = None if self.log is None else LoggedSession(session, self.log, name)
        one = OpenSession(secrets.token_urlsafe(16), name, session, logged, now, now)
        self._open[one.key] = one
        self.metrics.opened[name] += 1
        return one

    def end_of(self, task: str) -> int | None:
        """The number of decisions that a session of this task may take; None: any."""
        return self._ends[task]

    def begin(self, key: str) -> OpenSession:
        """The session of this key, now busy. Raises Refusal: 404 where there is none, 409 where it is busy."""
        one = self._get(key)
        one.busy = True
        return one

    def release(self, one: OpenSession) -> None:
        """The end of what `begin` began."""
        one.busy, one.used = False, self.clock()

    def close(self, key: str, reward: float | None = None) -> None:
        """End a session whose episode is over; `reward` is what the last action has earned. Raises Refusal as `begin`."""
        one = self._get(key)
        if reward is not None:
            if not one.steps:
                raise UserError("reward must be left out: no action was taken")
            (one.logged or one.session).observe(reward)
        one.end(done=True)
        del self._open[key]
        self.metrics.ended[one.task, "closed"] += 1

    def expire(self) -> None:
        """End the sessions that are idle or old."""
        now, limits = self.clock(), self.limits
        for one in [*self._open.values()]:
            if not one.busy and (now - one.used > limits.idle_s or now - one.opened > limits.age_s):
                one.end(done=False)
                del self._open[one.key]
                self.metrics.ended[one.task, "expired"] += 1

    def stop(self) -> None:
        """End every session, and close the log."""
        for one in self._open.values():
            one.end(done=False)
        self._open.clear()
        if self.log is not None:
            self.log.close()

    def decide(self, one: OpenSession, observation: Any, reward: Any = None, step: Any = None) -> Decision:
        """The action for this observation, after the reward of the action before.

        `step` counts decisions from 0; a client that gives it is told of a decision that it has missed or repeated.
        Raises Refusal 409 for another step than the next one and beyond the end of the episode, UserError for an observation
        or a reward that is not understood. What is refused changes nothing.
        """
        # What was asked.
        self._check_step(one, step)
        policy = self.policies[one.task]
        columns = to_arrays(observation, policy.networks.encoder.inputs)
        self._readers[one.task].read(columns)
        if one.steps == 0 and reward is not None:
            raise UserError("reward must be left out of the first decision of a session: there is no action before it")
        if one.steps and (isinstance(reward, bool) or not isinstance(reward, int | float)):
            raise UserError(f"reward is {reward!r:.60}, not the number that the action before has earned")
        # The reward counts, then the model decides.
        session = one.logged or one.session
        if one.steps:
            session.observe(reward)
        try:
            action = np.asarray(session.decide(columns)).tolist()
        except Exception as error:
            one.broken = True
            raise Refusal(500, f"the model failed, and there is no fall-back policy: {error!s:.200}") from error
        outcome = one.session.outcome
        one.steps += 1
        return Decision(action, one.steps - 1, outcome.by, outcome.reason, outcome.ms)

    def _get(self, key: str) -> OpenSession:
        one = self._open.get(key)
        if one is None:
            raise Refusal(404, "there is no such session: it was never opened, was closed, or has expired")
        if one.busy:
            raise Refusal(409, "a decision of this session is under way: wait for its answer")
        return one

    def _check_step(self, one: OpenSession, step: Any) -> None:
        if one.broken:
            raise Refusal(409, "the model failed in this session, which has ended: open another one")
        end = self._ends[one.task]
        if step is not None and (isinstance(step, bool) or step != one.steps):
            raise Refusal(409, f"the next decision of this session is step {one.steps}, not {step!r:.40}")
        if end is not None and one.steps >= end:
            raise Refusal(409, f"this session has taken the {end} decisions of an episode: open another one")

    def _names(self) -> str:
        return " or ".join(map(repr, self.policies))


class Unguarded:
    """A policy as an AgentPolicy without a fall-back: for bundles that describe none."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.networks = policy, policy.networks

    def start(self) -> UnguardedSession:
        return UnguardedSession(self.policy.start())


class UnguardedSession:
    """A session that measures its decisions."""

    def __init__(self, session: Session) -> None:
        self.session, self.observe = session, session.observe
        self.outcome = Outcome("model", None, 0.0)

    @property
    def return_to_go(self) -> Any:
        return self.session.return_to_go

    def decide(self, observation: Mapping[str, Any]) -> Any:
        began = time.perf_counter()
        action = self.session.decide(observation)
        self.outcome = Outcome("model", None, 1000 * (time.perf_counter() - began))
        return action
