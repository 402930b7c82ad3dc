"""The sessions of an agent: opened, asked for decisions, closed or expired, within limits. Nothing here knows of HTTP.

`Sessions.decide` and `Sessions.finish` may run in another thread than the rest, one call at a time.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from edgenetllm.edge.agent.metrics import Metrics
from edgenetllm.edge.agent.schema import last_step, to_arrays
from edgenetllm.edge.networks import Networks
from edgenetllm.edge.observation import Reader
from edgenetllm.errors import UserError


class Outcome(Protocol):
    """How the last decision of a session came about."""

    @property
    def by(self) -> Any: ...  # model or fallback
    @property
    def reason(self) -> Any: ...  # None, or why the fall-back policy took it
    @property
    def ms(self) -> Any: ...


class AgentSession(Protocol):
    """One episode of an AgentPolicy."""

    @property
    def outcome(self) -> Outcome: ...
    @property
    def return_to_go(self) -> Any: ...
    def decide(self, observation: Mapping[str, Any]) -> Any: ...
    def observe(self, reward: Any) -> None: ...


class AgentPolicy(Protocol):
    """The policy of a task that the agent serves: `edge.agent.guarded.GuardedPolicy`, or anything that does the same."""

    @property
    def networks(self) -> Networks: ...
    def start(self) -> AgentSession: ...


class Log(Protocol):
    """Where decisions are written: `edge.agent.decision_log.DecisionLog`."""

    def write(self, record: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


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
    number: int  # of the episode, in the order of opening
    session: AgentSession
    opened: float  # by the clock of Sessions
    used: float
    steps: int = 0  # decisions so far
    busy: bool = False  # a decision is under way
    rewarded: bool = False  # the reward of the last action was observed, though no decision came of it
    last: dict[str, Any] | None = field(default=None, repr=False)  # the record that still lacks its reward


class Sessions:
    """All sessions of the agent. `clock` gives seconds; expiry and `Refusal`s follow `limits`."""

    def __init__(
        self,
        policies: Mapping[str, AgentPolicy],
        limits: Limits | None = None,
        log: Log | None = None,
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
        now = self.clock()
        number = sum(self.metrics.opened.values())
        one = OpenSession(secrets.token_urlsafe(16), name, number, self.policies[name].start(), now, now)
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

    def close(self, key: str) -> OpenSession:
        """Forget a session, which `finish` should have next. Raises Refusal as `begin` does."""
        one = self._get(key)
        del self._open[key]
        self.metrics.ended[one.task, "closed"] += 1
        return one

    def expire(self) -> list[OpenSession]:
        """Forget the sessions that are idle or old, which `finish` should have next."""
        now = self.clock()
        limits = self.limits
        gone = [
            one
            for one in self._open.values()
            if not one.busy and (now - one.used > limits.idle_s or now - one.opened > limits.age_s)
        ]
        for one in gone:
            del self._open[one.key]
            self.metrics.ended[one.task, "expired"] += 1
        return gone

    def close_all(self) -> list[OpenSession]:
        """Forget every session, as the agent stops; `finish` should have them next."""
        gone, self._open = list(self._open.values()), {}
        return gone

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
        if one.steps and not one.rewarded:
            one.session.observe(reward)
            one.rewarded = True
            self.finish(one, reward)
        left = one.session.return_to_go
        action = np.asarray(one.session.decide(columns)).tolist()
        outcome = one.session.outcome
        decision = Decision(action, one.steps, outcome.by, outcome.reason, outcome.ms)
        one.steps, one.rewarded = one.steps + 1, False
        if self.log is not None:
            one.last = self._record(one, observation, decision, left)
        return decision

    def finish(self, one: OpenSession, reward: float | None = None) -> None:
        """Write the last decision of a session to the log, with its reward if there is one."""
        record, one.last = one.last, None
        if self.log is None or record is None:
            return
        try:
            self.log.write({**record, "reward": reward})
        except OSError:  # a full disk stops no decision
            self.metrics.log_failures += 1

    def _get(self, key: str) -> OpenSession:
        one = self._open.get(key)
        if one is None:
            raise Refusal(404, "there is no such session: it was never opened, was closed, or has expired")
        if one.busy:
            raise Refusal(409, "a decision of this session is under way: wait for its answer")
        return one

    def _check_step(self, one: OpenSession, step: Any) -> None:
        end = self._ends[one.task]
        if step is not None and (isinstance(step, bool) or step != one.steps):
            raise Refusal(409, f"the next decision of this session is step {one.steps}, not {step!r:.40}")
        if end is not None and one.steps >= end:
            raise Refusal(409, f"this session has taken the {end} decisions of an episode: open another one")

    def _record(
        self, one: OpenSession, observation: Mapping[str, Any], decision: Decision, left: float
    ) -> dict[str, Any]:
        """The row of the decision log, without its reward."""
        inputs = self.policies[one.task].networks.encoder.inputs
        return {
            "policy": "agent", "task": one.task, "session": one.key, "episode": one.number, "step": decision.step,
            "time": time.time(), **{f"observation.{name}": observation[name] for name in inputs},
            "action": decision.action, "return_to_go": left, "by": decision.by, "reason": decision.reason, "ms": decision.ms,
        }  # fmt: skip

    def _names(self) -> str:
        return " or ".join(map(repr, self.policies))


class _TimedOutcome(NamedTuple):
    by: Literal["model"]
    reason: None
    ms: float


class Unguarded:
    """A policy without a fall-back as an AgentPolicy."""

    def __init__(self, policy: Any) -> None:
        self.policy, self.networks = policy, policy.networks

    def start(self) -> _UnguardedSession:
        return _UnguardedSession(self.policy.start())


class _UnguardedSession:
    def __init__(self, session: Any) -> None:
        self.session, self.observe = session, session.observe
        self.outcome = _TimedOutcome("model", None, 0.0)

    @property
    def return_to_go(self) -> float:
        return float(self.session.return_to_go)

    def decide(self, observation: Mapping[str, Any]) -> Any:
        began = time.perf_counter()
        action = self.session.decide(observation)
        self.outcome = _TimedOutcome("model", None, 1000 * (time.perf_counter() - began))
        return action
