"""The encoders and heads of CJS without torch: `tokens=pointer` and `tokens=per_stage`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.columns import JOB, JOB_COLUMNS, SCHEDULABLE, STAGE_COLUMNS
from edgenetllm.tasks.cjs.networks import edge_graph, edge_head
from edgenetllm.tasks.cjs.networks.sizes import HIDDEN, KNOWN, MOST_EXECUTORS, NEVER, NUMBER_FEATURES, PLACES
from edgenetllm.tasks.common.edge import Columns, Input, choose, take
from edgenetllm.tasks.common.layers import Floats, linear
from edgenetllm.tasks.observation import Array

POINTED, PLACED = "any stage and executors", f"one of {PLACES} stages and executors"
LARGEST_CLUSTER = 1_000_000  # executors
INPUTS = {
    "stages": Input((len(STAGE_COLUMNS),), ragged=True, columns=STAGE_COLUMNS),
    "jobs": Input((len(JOB_COLUMNS),), ragged=True, columns=JOB_COLUMNS),
    "edges": Input((2,), integer=True, ragged=True, columns=("parent", "child")),
    "committable": Input(integer=True, high=LARGEST_CLUSTER),
    "source_job": Input(integer=True, low=-1, high=LARGEST_CLUSTER),
    "executors": Input(integer=True, high=LARGEST_CLUSTER),
}
PROBLEMS = {
    edge_graph.JOB_OF_A_STAGE: "stages: column job names a row that jobs does not have",
    edge_graph.EDGE: "edges: a parent or child is a row that stages does not have",
    edge_graph.SOURCE: "source_job is a row that jobs does not have",
    edge_graph.EXECUTORS: "committable is more than executors",
    edge_graph.NEGATIVE: "stages and jobs: a number of tasks, a duration or a level is negative",
}


class GraphTokens:
    """All that both encoders of job graphs have: the graph's embeddings, and the token of an action."""

    inputs: Mapping[str, Input] = INPUTS
    ignored: frozenset[str] = frozenset()
    actions = POINTED
    places: int | None = None

    def __init__(self, options: Mapping[str, Any], weights: Mapping[str, Array], width: int) -> None:
        inside = {name.removeprefix("graph."): w for name, w in weights.items() if name.startswith("graph.")}
        self.graph, self.width = edge_graph.pack(inside), width
        own = {name: weight for name, weight in weights.items() if not name.startswith("graph.")}
        shapes = {"taken.weight": (width, 2 * HIDDEN + 2), "taken.bias": (width,), **self._shapes(width)}
        self.weights = take(own, shapes, "encoder of CJS")

    def _shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        """The weights besides those of the graph and of the action."""
        raise NotImplementedError

    def check(self, columns: Columns) -> None:
        """Raise UserError where a row names another one that is not there."""
        problem, episode = edge_graph.check(*_graph_arguments(columns))
        if problem != edge_graph.FINE:
            raise UserError(f"observation (episode {episode}): {PROBLEMS[problem]}")

    def embed(self, columns: Columns) -> Columns:
        return {**columns, **edge_graph.embed(columns, self.graph, self.places)}

    def action(self, action: Array, embedded: Columns) -> Floats:
        out = np.empty((len(action), self.width), np.float32)
        edge_head.taken(
            chosen_rows(action[:, 0], embedded), action[:, 1], embedded["stages"], embedded["stage"], embedded["job"],
            embedded["executors"], self.weights["taken.weight"], self.weights["taken.bias"], out,
        )  # fmt: skip
        return out


class PointerEncoder(GraphTokens):
    """The cluster is one token; the head points at schedulable stages, whose rows are `listed`."""

    tokens_per_step = 1

    def _shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        return {"token.weight": (width, HIDDEN), "token.bias": (width,)}

    def state(self, embedded: Columns) -> Floats:
        return linear(embedded["cluster"], self.weights["token.weight"], self.weights["token.bias"])[:, None]


class PerStageEncoder(GraphTokens):
    """A token for each of the first schedulable stages, and one for the cluster."""

    tokens_per_step = PLACES + 1
    actions = PLACED
    places = PLACES

    def _shapes(self, width: int) -> dict[str, tuple[int, ...]]:
        stage = {"stage.weight": (width, 2 * HIDDEN), "stage.bias": (width,), "empty": (width,)}
        return {**stage, "cluster.weight": (width, HIDDEN), "cluster.bias": (width,)}

    def state(self, embedded: Columns) -> Floats:
        rows = embedded["listed"]
        tokens = np.empty((len(rows), self.tokens_per_step, self.width), np.float32)
        tokens[:, :-1] = self.weights["empty"]
        known = rows >= 0
        episodes, stages = np.nonzero(known)[0], rows[known]
        chosen = of_stages(episodes, stages, embedded)
        tokens[:, :-1][known] = linear(chosen, self.weights["stage.weight"], self.weights["stage.bias"])
        tokens[:, -1] = linear(embedded["cluster"], self.weights["cluster.weight"], self.weights["cluster.bias"])
        return tokens


class PointerHead:
    """A stage is scored by its embeddings and its own features, and so is every number of executors that it can use."""

    actions = POINTED

    def __init__(self, options: Mapping[str, Any], weights: Mapping[str, Array], width: int) -> None:
        square = (HIDDEN, HIDDEN)
        shapes: dict[str, tuple[int, ...]] = {
            "hidden.weight": (2 * HIDDEN, width), "hidden.bias": (2 * HIDDEN,),
            "stage.weight": (HIDDEN, KNOWN), "stage.bias": (HIDDEN,),
            "score.1.weight": square, "score.1.bias": (HIDDEN,), "score.3.weight": (1, HIDDEN), "score.3.bias": (1,),
            "idle.1.weight": (1, HIDDEN), "idle.1.bias": (1,),
            "place.weight": (HIDDEN, KNOWN), "place.bias": (HIDDEN,),
            "number.weight": (HIDDEN, NUMBER_FEATURES), "number.bias": (HIDDEN,),
            "count.1.weight": square, "count.1.bias": (HIDDEN,), "count.3.weight": (1, HIDDEN), "count.3.bias": (1,),
        }  # fmt: skip
        taken = take(weights, shapes, "head of CJS")
        self.hidden = taken["hidden.weight"], taken["hidden.bias"]
        self.scoring = [taken[f"{name}.{part}"] for name in ("stage", "score.1", "score.3", "idle.1")
                        for part in ("weight", "bias")]  # fmt: skip
        self.counting = [taken[f"{name}.{part}"] for name in ("place", "number", "count.1", "count.3")
                         for part in ("weight", "bias")]  # fmt: skip

    def logits(self, query: Floats, embedded: Columns) -> Floats:
        """(episodes, 1 + places): leaving the executors idle, then each place; `query` is the mapped hidden state."""
        out = np.empty((len(query), 1 + embedded["listed"].shape[1]), np.float32)
        columns = (embedded[name] for name in ("stages", "inputs", "stage", "job", "listed"))
        edge_head.stage_logits(query, *columns, *self.scoring, out)
        return out

    def executor_logits(self, query: Floats, embedded: Columns, place: Array) -> Floats:
        """(episodes, most) given the chosen place, -1 for none; entry k stands for k + 1 executors."""
        most = max(1, int(embedded["committable"].max(initial=0)))
        out = np.empty((len(query), most), np.float32)
        columns = (embedded[name] for name in ("stages", "jobs", "inputs", "stage", "job"))
        numbers = (embedded[name] for name in ("committable", "source_job", "executors"))
        edge_head.executor_logits(query, chosen_rows(place, embedded), *columns, *numbers, *self.counting, out)
        return out

    def decide(self, hidden: Floats, embedded: Columns, rng: np.random.Generator | None = None) -> Array:
        """int64 (episodes, 2): index in the list of schedulable stages or -1, executors (all that are left for -1)."""
        query = linear(hidden, *self.hidden)
        place = choose(self.logits(query, embedded), rng) - 1
        return as_action(place, 1 + choose(self.executor_logits(query, embedded, place), rng), embedded)


class PlaceHead:
    """Fixed classes: a place in the list of schedulable stages, and a number of executors."""

    actions = PLACED

    def __init__(self, options: Mapping[str, Any], weights: Mapping[str, Array], width: int) -> None:
        shapes = {
            "stage.weight": (1 + PLACES, width), "stage.bias": (1 + PLACES,),
            "chosen.weight": (width, 2 * HIDDEN), "chosen.bias": (width,),
            "executors.weight": (MOST_EXECUTORS, width), "executors.bias": (MOST_EXECUTORS,),
        }  # fmt: skip
        self.weights = take(weights, shapes, "head of CJS")

    def logits(self, hidden: Floats, embedded: Columns) -> Floats:
        """(episodes, 1 + PLACES): leaving the executors idle, then each place."""
        logits = linear(hidden, self.weights["stage.weight"], self.weights["stage.bias"])
        logits[:, 1:][embedded["listed"] < 0] = NEVER
        return logits

    def executor_logits(self, hidden: Floats, embedded: Columns, place: Array) -> Floats:
        """(episodes, MOST_EXECUTORS) given the chosen place, -1 for none; entry k stands for k + 1."""
        rows = chosen_rows(place, embedded)
        known = of_stages(np.arange(len(rows)), np.maximum(rows, 0), embedded)
        chosen = linear(known, self.weights["chosen.weight"], self.weights["chosen.bias"])
        logits = linear(hidden + chosen, self.weights["executors.weight"], self.weights["executors.bias"])
        edge_head.limit_executors(rows, embedded["stages"], embedded["committable"], logits)
        return logits

    def decide(self, hidden: Floats, embedded: Columns, rng: np.random.Generator | None = None) -> Array:
        """As the pointer head's."""
        place = choose(self.logits(hidden, embedded), rng) - 1
        return as_action(place, 1 + choose(self.executor_logits(hidden, embedded, place), rng), embedded)


def chosen_rows(place: Array, embedded: Columns) -> Array:
    """Place in the list of schedulable stages (episodes,), -1 for none, to the row of the stage, -1 likewise.

    A place may be beyond those that a head can choose: other policies see more of them.
    """
    if place.max() >= embedded["listed"].shape[1]:
        schedulable = embedded["stages"][..., SCHEDULABLE] > 0
        chosen = schedulable & (schedulable.cumsum(1) - 1 == place[:, None])
        return np.where(chosen.any(1), chosen.argmax(1), -1)
    rows = embedded["listed"][np.arange(len(place)), np.maximum(place, 0)]
    return np.where(place < 0, -1, rows)


def of_stages(episodes: Array, rows: Array, embedded: Columns) -> Floats:
    """Embeddings of these stages and of their jobs, (n, 2 HIDDEN); zeros where there are no stages at all."""
    if not embedded["stage"].shape[1]:
        return np.zeros((len(rows), 2 * HIDDEN), np.float32)
    jobs = embedded["stages"][episodes, rows, JOB].astype(np.int64)
    return np.concatenate([embedded["stage"][episodes, rows], embedded["job"][episodes, jobs]], axis=1)


def as_action(place: Array, executors: Array, embedded: Columns) -> Array:
    """(episodes, 2); leaving the executors idle concerns all that are left."""
    return np.stack([place, np.where(place < 0, embedded["committable"], executors)], axis=1)


def _graph_arguments(columns: Columns) -> tuple[Array, ...]:
    names = (
        "stages",
        "stages_count",
        "jobs",
        "jobs_count",
        "edges",
        "edges_count",
        "committable",
        "source_job",
        "executors",
    )
    return tuple(columns[name] for name in names)
