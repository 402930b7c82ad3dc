"""Decima (Mao et al., SIGCOMM 2019) with the features and the network of NetLLM's fork of spark-sched-sim.

A graph network sums messages up every job's stages, then over jobs and over the cluster; one small network scores the
schedulable stages, another how many executors the chosen stage's job gets. The architecture is that of
`spark_sched_sim/schedulers/neural/decima.py` in github.com/duowuyms/NetLLM; the weights are our own, trained by
`scripts/train_decima.py`. Differences:

- a stage always sums the messages of all its children. There, a stage that has both a child and a grandchild as children
  loses some of them, by the way edges are split into levels
- "no edges at all" is decided for each decision alone, there for a whole training batch
- with that, decisions of a batch do not influence each other

Many decisions are computed together: their stages, jobs and edges lie flat behind each other, see `Decisions`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgenetllm.errors import UserError
from edgenetllm.tasks.cjs.columns import JOB, LEVEL, RECENT, REMAINING, SCHEDULABLE, SUPPLY
from edgenetllm.tasks.cjs.policies.targets import one_hot_target
from edgenetllm.tasks.task import Array, Observation

WEIGHTS = Path(__file__).with_name("decima.safetensors")

EMBEDDING_WIDTH = 16
STAGE_FEATURES = 5  # cap/N, at the source, supply/N, remaining tasks, remaining work
JOB_FEATURES = 3  # the first three of them
TASKS_SCALE = 200.0
WORK_SCALE = 1e5  # ms


class Decisions(NamedTuple):
    """Observations of D decisions without padding: rows lie behind each other, decision by decision."""

    stages: npt.NDArray[np.float32]  # (stages, columns of observation.py); the job is counted inside its decision
    supply: npt.NDArray[np.float32]  # (jobs,)
    edges: npt.NDArray[np.int32]  # (edges, 2), parent and child, counted inside their decision
    counts: npt.NDArray[np.int64]  # (D, 3) stages, jobs, edges
    heads: npt.NDArray[np.int64]  # (D, 3) committable, source job, executors

    @staticmethod
    def of(observation: Observation, rows: npt.NDArray[np.intp]) -> Decisions:
        """The decisions of the episodes `rows`."""
        packed, counts = [], []
        for name in ("stages", "jobs", "edges"):
            values, count = observation[name].values[rows], observation[name].count[rows]
            packed.append(values[np.arange(values.shape[1]) < count[:, None]])
            counts.append(count)
        heads = [observation[name][rows] for name in ("committable", "source_job", "executors")]
        stages, jobs, edges = packed
        return Decisions(
            stages, jobs[:, SUPPLY], edges, np.stack(counts, 1).astype(np.int64), np.stack(heads, 1).astype(np.int64)
        )

    @staticmethod
    def join(batches: Sequence[Decisions]) -> Decisions:
        return Decisions(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))

    def take(self, index: npt.NDArray[np.intp]) -> Decisions:
        """Decisions by number, in the order of `index`."""
        rows = [ragged_rows(self.counts[:, column], index) for column in range(3)]
        return Decisions(
            self.stages[rows[0]], self.supply[rows[1]], self.edges[rows[2]], self.counts[index], self.heads[index]
        )


def ragged_rows(counts: npt.NDArray[np.int64], index: npt.NDArray[np.intp]) -> npt.NDArray[np.int64]:
    """Numbers of the rows that belong to the entries `index` of a flat array of `counts` rows each."""
    first, count = (np.cumsum(counts) - counts)[index], counts[index]
    start = np.cumsum(count) - count
    return np.repeat(first - start, count) + np.arange(count.sum())


class Graph(NamedTuple):
    """`Decisions` as tensors for the network; stages are sorted by level, so that children come before parents."""

    features: Tensor  # (stages, 5)
    job: Tensor  # (stages,) number of the job among all
    linked: Tensor  # (stages, 1) bool: its decision has edges
    levels: tuple[int, ...]  # how many stages there are of each level
    parents: tuple[Tensor, ...]  # per level from 1 on, its edges' parents, counted inside the level
    children: tuple[Tensor, ...]  # ... and children
    decision: Tensor  # (jobs,) whose job it is
    caps: Tensor  # (jobs,) most executors that can be handed to it now
    job_features: Tensor  # (jobs, 3)
    schedulable: Tensor  # (choices,) stages that may be chosen, decision by decision in the order of the observation
    slot: Tensor  # (D, most choices) which of these it is, -1 where there are no more
    executors: Tensor  # (D,) of the cluster


def build_graph(decisions: Decisions) -> Graph:
    """Features and order of computation. The caps are those of NetLLM's `wrappers/neural.py`."""
    # Which decision each stage, job and edge belongs to.
    stages, supply, edges, counts, heads = decisions
    total = len(counts)
    first_stage, first_job = (np.cumsum(counts, 0) - counts)[:, :2].T
    of_stage, of_job, of_edge = (np.repeat(np.arange(total), counts[:, column]) for column in range(3))
    # Features of jobs, and of stages with those of their job.
    left, source, cluster = heads[of_job].T
    is_source = np.arange(len(of_job)) - first_job[of_job] == source
    caps = np.where(is_source, left, np.clip(cluster - supply, 0, left)).astype(np.int64)
    job_features = np.stack([caps / cluster, np.where(is_source, 1.0, -1.0), supply / cluster], 1)
    job = stages[:, JOB].astype(np.int64) + first_job[of_stage]
    remaining = stages[:, REMAINING]
    own = np.stack([remaining / TASKS_SCALE, remaining * stages[:, RECENT] / WORK_SCALE], 1)
    features = np.concatenate([job_features[job], own], 1).astype(np.float32)

    # Order of computation: level by level, with the edges that lead into each level.
    level = stages[:, LEVEL].astype(np.int64)
    order = np.argsort(level, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    sizes = np.bincount(level, minlength=1)
    starts = np.cumsum(sizes) - sizes
    parent, child = (edges + first_stage[of_edge][:, None]).T
    by_level = np.argsort(level[parent], kind="stable")
    cuts = np.cumsum(np.bincount(level[parent], minlength=len(sizes)))[:-1]
    parents = np.split(place[parent[by_level]] - starts[level[parent[by_level]]], cuts)[1:]
    children = np.split(place[child[by_level]], cuts)[1:]

    # The slot of every schedulable stage in its decision.
    schedulable = np.flatnonzero(stages[:, SCHEDULABLE])
    choices = np.bincount(of_stage[schedulable], minlength=total)
    slot = np.full((total, max(1, choices.max(initial=0))), -1)
    slot[np.arange(slot.shape[1]) < choices[:, None]] = np.arange(len(schedulable))
    return Graph(
        torch.from_numpy(features[order]),
        torch.from_numpy(job[order]),
        torch.from_numpy(counts[of_stage[order], 2] > 0)[:, None],
        tuple(sizes.tolist()),
        tuple(map(torch.from_numpy, parents)),
        tuple(map(torch.from_numpy, children)),
        torch.from_numpy(of_job),
        torch.from_numpy(caps),
        torch.from_numpy(job_features.astype(np.float32)),
        torch.from_numpy(place[schedulable]),
        torch.from_numpy(slot),
        torch.from_numpy(heads[:, 2]),
    )


class Embeddings(NamedTuple):
    """Embeddings by the graph network of stages (stages, 16), jobs (jobs, 16) and whole clusters (D, 16)."""

    stage: Tensor
    job: Tensor
    cluster: Tensor


def _graph_mlp(inputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 32), nn.LeakyReLU(0.2), nn.Linear(32, 16), nn.LeakyReLU(0.2), nn.Linear(16, EMBEDDING_WIDTH)
    )


def _policy_mlp(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))


def _total(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Sums of the rows (rows, width) of equal index: (count, width)."""
    return values.new_zeros(count, values.shape[1]).index_add(0, index, values)


class DecimaNet(nn.Module):
    """Section 5 of the paper; sizes as in NetLLM's `config/decima_tpch.yaml`: 20,802 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.prepare = _graph_mlp(STAGE_FEATURES)
        self.message = _graph_mlp(EMBEDDING_WIDTH)
        self.update = _graph_mlp(EMBEDDING_WIDTH)
        self.to_job = _graph_mlp(STAGE_FEATURES + EMBEDDING_WIDTH)
        self.to_cluster = _graph_mlp(EMBEDDING_WIDTH)
        self.stage_score = _policy_mlp(STAGE_FEATURES + 3 * EMBEDDING_WIDTH)
        self.executor_score = _policy_mlp(JOB_FEATURES + 2 * EMBEDDING_WIDTH + 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def embed(self, graph: Graph) -> Embeddings:
        """Messages go from children to parents, level by level; then sums over the stages and over the jobs."""
        prepared = self.prepare(graph.features)
        levels = prepared.split(graph.levels)
        leaves = slice(0, graph.levels[0])
        done = [torch.where(graph.linked[leaves], self.update(levels[0]), levels[0])]
        messages = []
        for level, parents, children in zip(levels[1:], graph.parents, graph.children, strict=True):
            messages.append(self.message(done[-1]))
            heard = torch.cat(messages)[children]
            done.append(level + self.update(_total(heard, parents, len(level))))
        stage = torch.cat(done)
        job = _total(self.to_job(torch.cat([graph.features, stage], 1)), graph.job, len(graph.decision))
        cluster = _total(self.to_cluster(job), graph.decision, len(graph.executors))
        return Embeddings(stage, job, cluster)

    def stage_logits(self, graph: Graph, embeddings: Embeddings) -> Tensor:
        """Logits (D, most choices) in the order of the schedulable list, -inf beyond it."""
        stage = graph.schedulable
        job = graph.job[stage]
        inputs = [graph.features[stage], embeddings.stage[stage], embeddings.job[job]]
        scores = self.stage_score(torch.cat([*inputs, embeddings.cluster[graph.decision[job]]], 1))
        return _padded(scores[:, 0], graph.slot)

    def executor_logits(self, graph: Graph, embeddings: Embeddings, job: Tensor) -> Tensor:
        """Logits (D, most executors) for the chosen jobs (D,); column k stands for k + 1 executors, -inf beyond the cap."""
        caps = graph.caps[job].clamp(min=1)
        decision = torch.repeat_interleave(torch.arange(len(caps)), caps)
        first = caps.cumsum(0) - caps
        column = torch.arange(len(decision)) - first[decision]
        fraction = (column / graph.executors[decision]).to(graph.features.dtype)
        context = torch.cat([graph.job_features[job], embeddings.job[job], embeddings.cluster], 1)
        # The first layer; what all rows of a decision have in common goes through it once only.
        layer = self.executor_score[0]
        assert isinstance(layer, nn.Linear)
        hidden = F.linear(context, layer.weight[:, :-1], layer.bias)[decision] + fraction[:, None] * layer.weight[:, -1]
        scores = self.executor_score[1:](hidden)[:, 0]
        columns = torch.arange(int(caps.max()))
        slot = torch.where(columns < caps[:, None], first[:, None] + columns, -1)
        return _padded(scores, slot)


def _padded(scores: Tensor, slot: Tensor) -> Tensor:
    """Scores at their slots, -inf where the slot is -1."""
    return torch.where(slot >= 0, scores[slot.clamp(min=0)], float("-inf"))


def chosen_job(graph: Graph, index: Tensor) -> Tensor:
    """Number of the job that the chosen entry (D,) of each schedulable list belongs to."""
    return graph.job[graph.schedulable[graph.slot.gather(1, index[:, None])[:, 0]]]


def draw(logits: Tensor, uniform: Tensor | None) -> Tensor:
    """Column (D,) of the logits (D, n): the largest, or by inversion of a uniform number (D,)."""
    if uniform is None:
        return logits.argmax(1)
    cumulated = logits.double().softmax(1).cumsum(1)
    column = (cumulated <= uniform[:, None] * cumulated[:, -1:]).sum(1)
    last = logits.isfinite().sum(1) - 1  # rounding must not lead beyond it
    return torch.minimum(column, last)


def decide(net: DecimaNet, graph: Graph, uniforms: Tensor | None) -> tuple[Tensor, Tensor]:
    """Actions (D, 2), stage index and executors, and their log probability (D,).

    `uniforms` (D, 2) in [0, 1) samples both; None takes the most probable stage, then the most probable number.
    """
    embeddings = net.embed(graph)
    stages = net.stage_logits(graph, embeddings)
    index = draw(stages, None if uniforms is None else uniforms[:, 0])
    executors = net.executor_logits(graph, embeddings, chosen_job(graph, index))
    column = draw(executors, None if uniforms is None else uniforms[:, 1])
    chance = stages.log_softmax(1).gather(1, index[:, None]) + executors.log_softmax(1).gather(1, column[:, None])
    return torch.stack([index, column + 1], 1), chance[:, 0]


class Decima:
    """The trained policy as a baseline. Sampled, as it is published, unless `sample_seed` is None: then the most probable."""

    name = "decima"

    def __init__(self, net: DecimaNet, sample_seed: int | None = 0) -> None:
        self.net, self.sample_seed = net.eval(), sample_seed

    @staticmethod
    def load(path: Path | str = WEIGHTS, sample_seed: int | None = 0) -> Decima:
        """Raises UserError for a missing file or one of another network."""
        net = DecimaNet()
        try:
            net.load_state_dict(load_file(path), strict=True)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path} does not hold Decima's weights ({error})") from None
        return Decima(net, sample_seed)

    def start(self, episodes: int) -> None:
        if self.sample_seed is not None:
            self._generator = torch.Generator().manual_seed(self.sample_seed)

    @torch.inference_mode()
    def act(self, observation: Observation) -> Array:
        """(episodes, 2): index in the schedulable list and executors; (-1, 0) for an episode that is done."""
        committable = observation["committable"]
        actions = np.zeros((len(committable), 2), np.int64)
        actions[:, 0] = -1
        uniforms = None
        if self.sample_seed is not None:
            uniforms = torch.rand(len(committable), 2, generator=self._generator, dtype=torch.float64)
        alive = np.flatnonzero(committable > 0)
        if len(alive):
            graph = build_graph(Decisions.of(observation, alive))
            chosen = None if uniforms is None else uniforms[torch.from_numpy(alive)]
            actions[alive] = decide(self.net, graph, chosen)[0].numpy()
        self._meant = actions
        return actions

    def targets(self, observation: Observation) -> npt.NDArray[np.float32]:
        """The action that `act` returned: the one that is taken may differ, for exploration."""
        return one_hot_target(self._meant)

    def identity(self) -> str:
        """A hash of the weights, and the seed of sampled decisions."""
        weights = hashlib.sha256(b"".join(value.numpy().tobytes() for value in self.net.state_dict().values()))
        return f"Decima({weights.hexdigest()[:16]}, sample_seed={self.sample_seed})"
