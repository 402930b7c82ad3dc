"""The model's side of a guarded episode: whatever goes wrong on the way, it goes on from the actions really taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from edgenetllm.edge.policy import Session
from edgenetllm.errors import NotFinite
from edgenetllm.tasks.common.edge import Columns
from edgenetllm.tasks.observation import Array


@dataclass(eq=False)
class Step:
    """A decision: what it is made on, and the action (1, ...) that was really taken, once it is known."""

    columns: Columns
    number: int
    left: Array  # (1,) return-to-go
    action: Array | None = None


@dataclass(eq=False)
class Thought:
    """The model's work on a decision, and on the steps before that it has not seen."""

    steps: list[Step]
    begin: tuple[int, Array, int]  # the context before
    action: Array | None = None  # of the last step
    embedded: Columns | None = None  # the last step's, once its tokens are in the context
    error: Exception | None = None
    done: threading.Event | None = None  # set when it has ended; None: it ended before anybody else could know of it

    def ends_by(self, end: float) -> bool:
        """Wait for the end, until the time `end` of `time.perf_counter`; True where it has ended."""
        return self.done is None or self.done.wait(end - time.perf_counter())

    @property
    def ended(self) -> bool:
        return self.done is None or self.done.is_set()


class ModelOfEpisode:
    """The model's side of one episode, one thought at a time.

    - A thought that has ended is settled before the next: the action really taken enters the context, whoever chose it.
    - A step that the model was too busy for is seen together with the next one.
    - After a thought that raised, the context is rewound, and its last step is seen together with the next one, once; after
      one that was not finite the step stays unseen.
    - Where rewinding is not possible, or numbers are not finite twice in a row, the context starts again.
    """

    def __init__(self, session: Session) -> None:
        self.session, self.context = session, session.context
        self.thought: Thought | None = None
        self.unseen: list[Step] = []
        self.failures = 0
        self.last_error: Exception | None = None

    def step(self, columns: Mapping[str, Array], copy: bool) -> Step:
        """The decision that comes now; with `copy`, its columns are not those that the session uses again."""
        session = self.session
        return Step(_copied(columns) if copy else columns, session.step, session.left.copy())

    def think(self, step: Step, submit: Callable[[Callable[[], None]], None] | None = None) -> Thought:
        """Let the model decide, after the last thought was settled: here, or where `submit` has work done."""
        assert self.thought is None
        context = self.context
        begin = (context.cache.position, context.taken, context.taken_step)
        self.thought = thought = Thought([*self.unseen, step], begin)
        self.unseen = []
        if submit is None:
            self._work(thought)
        else:
            thought.done = threading.Event()
            submit(lambda: self._work(thought))
        return thought

    def miss(self, step: Step) -> None:
        """Keep a step that the model is too busy for; it can look back on no more than a window of them.

        Independent decisions do not look back.
        """
        if self.session.networks.independent:
            return
        self.unseen = [*self.unseen, step][-(self.session.networks.window or self.session.networks.max_steps) :]

    def settle(self) -> None:
        """Bring the context up to date with the thought that has ended."""
        thought, self.thought = self.thought, None
        assert thought is not None
        assert thought.ended
        last = thought.steps[-1]
        assert last.action is not None
        if thought.embedded is not None:
            self.context.took(last.action, thought.embedded, last.number)
            self.failures = 0
            return
        self.last_error = thought.error
        position, self.context.taken, self.context.taken_step = thought.begin
        unclear = isinstance(thought.error, NotFinite)
        self.failures = self.failures + 1 if unclear else 0
        if self.failures > 1 or not self.context.decoder.rewind(self.context.cache, position):
            self.context.restart()
        if not unclear and not self.session.networks.independent:
            last.columns = _copied(last.columns)
            self.unseen = [last, *self.unseen]

    def _work(self, thought: Thought) -> None:
        try:
            networks, context = self.session.networks, self.context
            # The tokens of all steps, each with the action that was taken before it.
            tokens = []
            for step in thought.steps:
                embedded = networks.encoder.embed(step.columns)
                tokens.append(context.tokens(embedded, step.number, step.left))
                if step is not thought.steps[-1]:
                    assert step.action is not None
                    context.took(step.action, embedded, step.number)
            # The decision on the last of them.
            hidden = context.extend(tokens[0] if len(tokens) == 1 else np.concatenate(tokens, axis=1))
            thought.embedded = embedded
            thought.action = networks.head.decide(hidden, embedded, self.session.rng)
        except Exception as error:  # whatever an engine can raise
            thought.error = error
        finally:
            if thought.done is not None:
                thought.done.set()


def _copied(columns: Mapping[str, Array]) -> dict[str, Array]:
    return {name: value.copy() for name, value in columns.items()}
