"""The records of a decision log: one decision each, written when its reward and its place in the episode are known."""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Mapping
from typing import Any, Protocol

from edgenetllm.edge.agent.decision_log import DecisionLog
from edgenetllm.experience.decisions import OBSERVATION


class Outcome(Protocol):
    """How a decision came about: `by` the model or the fall-back policy, the `reason` for the latter, milliseconds."""

    @property
    def by(self) -> Any: ...
    @property
    def reason(self) -> Any: ...
    @property
    def ms(self) -> Any: ...


def decision_record(
    task: str,
    session: str,
    step: int,
    observation: Mapping[str, Any],
    action: Any,
    outcome: Outcome | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The record of one decision of one episode; `more` are other columns: reward, done, policy, time, return_to_go."""
    how = {} if outcome is None else {"by": outcome.by, "reason": outcome.reason, "ms": outcome.ms}
    columns = {f"{OBSERVATION}{name}": value for name, value in observation.items()}
    return {"task": task, "session": session, "step": step, "action": action, **how, **more, **columns}


class Deciding(Protocol):
    """A session of one episode: `Policy.start()`, or a guarded one, which also has an `outcome`."""

    @property
    def return_to_go(self) -> Any: ...
    def decide(self, observation: Mapping[str, Any]) -> Any: ...
    def observe(self, reward: Any) -> None: ...


class LoggedSession:
    """A session of one episode that leaves its decisions in a log; `end` tells it that the episode is over.

    A record is written when the next decision begins, or by `end`. A reward that was not observed is null.
    """

    def __init__(self, session: Deciding, log: DecisionLog, task: str, name: str | None = None) -> None:
        self.session, self.log, self.task = session, log, task
        self.name = name or secrets.token_hex(8)
        self.step = 0
        self._last: dict[str, Any] | None = None

    @property
    def return_to_go(self) -> Any:
        """The return-to-go that is left."""
        return self.session.return_to_go

    def decide(self, observation: Mapping[str, Any]) -> Any:
        """The session's action."""
        left, began = self.session.return_to_go, time.time()
        action = self.session.decide(observation)
        self._write(done=False)
        outcome = getattr(self.session, "outcome", None)  # of a guarded session
        seen = copy.deepcopy(dict(observation))  # its arrays may be used again
        self._last = decision_record(
            self.task, self.name, self.step, seen, action, outcome, reward=None, return_to_go=left, time=began
        )
        self.step += 1
        return action

    def observe(self, reward: Any) -> None:
        """The reward of the decision just taken."""
        self.session.observe(reward)
        if self._last is not None:
            self._last["reward"] = reward

    def end(self, done: bool = True) -> None:
        """Write the last decision; `done` is False where the episode was given up before its end."""
        self._write(done)

    def _write(self, done: bool) -> None:
        if self._last is not None:
            self.log.write({**self._last, "done": done})
        self._last = None
