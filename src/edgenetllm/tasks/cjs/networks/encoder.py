"""Job graphs to tokens. Small on purpose; nothing depends on how many stages or jobs there are, nor on their order.

Stages are embedded one by one, then from the last stages up each adds what its children have to say (Decima's message
passing, section 5.1 of SIGCOMM 2019, in one round per level of the graph). Jobs sum their stages, the cluster its jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgenetllm.tasks.cjs.columns import (
    AGE,
    DEMAND,
    JOB,
    JOB_PATH,
    LEFT,
    LEVEL,
    PATH,
    READY,
    RECENT,
    REMAINING,
    ROUGH,
    SCHEDULABLE,
    SUPPLY,
    WORK,
)
from edgenetllm.tasks.cjs.networks.sizes import CLUSTER_FEATURES, HIDDEN, JOB_FEATURES, SPREAD, STAGE_INPUTS
from edgenetllm.tasks.task import Encoder


def _seconds(milliseconds: Tensor) -> Tensor:
    """Logarithm of a duration: 0 for nothing and about 1 for 100 s."""
    return (milliseconds / 1e3).log1p() / 5


def stage_features(stages: Tensor) -> Tensor:
    """(..., stages, columns) -> (..., stages, STAGE_FEATURES), each around the unit range times SPREAD."""
    return SPREAD * torch.stack(
        [
            stages[..., SCHEDULABLE],
            stages[..., READY],
            stages[..., REMAINING].log1p() / 5,
            stages[..., DEMAND].log1p() / 5,
            _seconds(stages[..., RECENT]),
            _seconds(stages[..., ROUGH]),
            _seconds(stages[..., PATH]),
            stages[..., LEVEL] / 8,
        ],
        dim=-1,
    )


def share_of_cluster(executors: Tensor, size: Tensor) -> Tensor:
    """Logarithm of the fraction, 0 for the whole cluster: a limit that is a product of a job's features is then a plane."""
    return ((executors.clamp_min(0) + 0.5) / size).log() / 4


def job_features(jobs: Tensor, source: Tensor, committable: Tensor, executors: Tensor) -> Tensor:
    """(..., jobs, columns), and per decision (...) -> (..., jobs, JOB_FEATURES), each around the unit range times SPREAD."""
    total = jobs[..., LEFT].sum(-1, keepdim=True).clamp_min(1)
    rows = torch.arange(jobs.shape[-2], device=jobs.device)
    at_source = (rows == source[..., None]).float()
    size = executors[..., None]
    return (
        SPREAD
        * torch.stack(
            [
                jobs[..., SUPPLY] / size,
                share_of_cluster(jobs[..., SUPPLY] - at_source * committable[..., None], size),  # what it keeps
                at_source,
                (committable[..., None] / size).expand(jobs.shape[:-1]),
                jobs[..., LEFT] / total,
                _seconds(jobs[..., LEFT]),
                _seconds(jobs[..., WORK]),
                _seconds(jobs[..., JOB_PATH]),
                _seconds(jobs[..., AGE]),
            ],
            dim=-1,
        )
    )


class GraphEncoder(nn.Module):
    """`stage` (b, t, stages, HIDDEN), `job` (b, t, jobs, HIDDEN), `cluster` (b, t, HIDDEN) and the `inputs` of the stages."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Linear(STAGE_INPUTS, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN))
        self.message = nn.Sequential(nn.GELU(), nn.Linear(HIDDEN, HIDDEN))
        self.job = nn.Sequential(nn.Linear(JOB_FEATURES + HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN))
        self.cluster = nn.Sequential(nn.Linear(CLUSTER_FEATURES + HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN))

    def forward(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        stages, jobs = observation["stages"], observation["jobs"]
        executors, committable = cluster_size(observation), observation["committable"].float()
        here = _real(stages, observation["stages_count"])
        present = _real(jobs, observation["jobs_count"])
        of_job = stages[..., JOB].long()
        features = job_features(jobs, observation["source_job"], committable, executors)
        inputs = torch.cat([stage_features(stages), pick(features, of_job)], dim=-1)
        stage = self._pass_messages(self.stage(inputs), stages[..., LEVEL], observation) * here[..., None]
        summed = torch.zeros(*features.shape[:-1], HIDDEN, dtype=stage.dtype, device=stage.device)
        summed = summed.scatter_add(-2, of_job[..., None].expand_as(stage), stage)
        job = self.job(torch.cat([features, summed / 4], dim=-1)) * present[..., None]
        totals = torch.stack(
            [
                committable / executors,
                executors / 50,
                observation["jobs_count"].float().log1p(),
                _seconds(jobs[..., LEFT].sum(-1)),
                jobs[..., SUPPLY].sum(-1) / executors,
                (observation["source_job"] >= 0).float(),
            ],
            dim=-1,
        )
        cluster = self.cluster(torch.cat([totals, job.sum(-2) / 4], dim=-1))
        return {"inputs": inputs, "stage": stage, "job": job, "cluster": cluster}

    def _pass_messages(self, stage: Tensor, level: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """One round per level, from the last stages up; all graphs of the batch at once."""
        width = stage.shape[-2]
        edges = observation["edges"].long()
        real = _real(edges, observation["edges_count"])
        if not bool(real.any()):
            return stage
        graph = torch.arange(real[..., 0].numel(), device=stage.device).view(real.shape[:-1])[..., None]
        parent, child = (graph * width + edges[..., k] for k in (0, 1))
        parent, child = parent[real], child[real]
        of_parent = level.flatten()[parent].long()
        flat = stage.flatten(0, -2)
        for step in range(1, int(of_parent.max()) + 1):
            now = of_parent == step
            flat = flat.index_add(0, parent[now], self.message(flat.index_select(0, child[now])))
        return flat.view_as(stage)


class PointerEncoder(Encoder):
    """`tokens=pointer`: the cluster is one token; the head points at schedulable stages, whose rows are `listed`."""

    tokens_per_step = 1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.graph = GraphEncoder()
        self.token = nn.Linear(HIDDEN, width)
        self.taken = nn.Linear(2 * HIDDEN + 2, width)

    def for_edge(self) -> dict[str, Any] | None:
        return {"kind": "cjs_pointer"} if type(self) is PointerEncoder else None

    def embed(self, observation: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        places = int((observation["stages"][..., SCHEDULABLE] > 0).sum(-1).max())
        listed = first_schedulable(observation["stages"], max(1, places))
        return {**observation, **self.graph(observation), "listed": listed}

    def state(self, embedded: Mapping[str, Tensor]) -> Tensor:
        return self.token(embedded["cluster"])[:, :, None]  # type: ignore[no-any-return]

    def action(self, action: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
        return self.taken(action_features(action, embedded))  # type: ignore[no-any-return]


def action_features(action: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
    """The chosen stage and its job, its fraction of the cluster, and whether there was one, (b, t, 2 HIDDEN + 2)."""
    row = chosen_row(action[..., 0], embedded)
    chosen = (row >= 0).float()[..., None]
    stage, job = of_stage(embedded, row.clamp_min(0)[..., None])
    fraction = (action[..., 1] / cluster_size(embedded))[..., None]
    return torch.cat([stage[..., 0, :] * chosen, job[..., 0, :] * chosen, fraction, chosen], dim=-1)


def first_schedulable(stages: Tensor, places: int) -> Tensor:
    """Rows of the first schedulable stages, (b, t, places), -1 where there are fewer."""
    schedulable = stages[..., SCHEDULABLE] > 0
    order = torch.where(schedulable, schedulable.cumsum(-1) - 1, places).clamp_max(places)
    rows = torch.arange(stages.shape[2], device=stages.device).expand_as(order)
    listed = torch.full((*order.shape[:2], places + 1), -1, device=stages.device)
    return listed.scatter(-1, order, rows)[..., :places]


def of_stage(embedded: Mapping[str, Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings of the stages at `rows` (b, t, k) and of their jobs, each (b, t, k, HIDDEN)."""
    of_job = pick(embedded["stages"][..., JOB : JOB + 1], rows)[..., 0].long()
    return pick(embedded["stage"], rows), pick(embedded["job"], of_job)


def cluster_size(observation: Mapping[str, Tensor]) -> Tensor:
    """Executors of the cluster, (b, t); 1 where a step is padding."""
    return observation["executors"].float().clamp_min(1)


def chosen_row(index: Tensor, embedded: Mapping[str, Tensor]) -> Tensor:
    """Index in the list of schedulable stages (b, t), -1 for none, to the row of the stage (b, t), -1 likewise."""
    schedulable = embedded["stages"][..., SCHEDULABLE] > 0
    place = schedulable.cumsum(-1) - 1
    is_chosen = schedulable & (place == index[..., None])
    return torch.where(is_chosen.any(-1), is_chosen.int().argmax(-1), -1)


def _real(rows: Tensor, count: Tensor) -> Tensor:
    """True for rows that are not padding, (b, t, rows)."""
    return torch.arange(rows.shape[2], device=rows.device) < count[..., None]


def pick(values: Tensor, rows: Tensor) -> Tensor:
    """values (b, t, n, d) at rows (b, t, k) -> (b, t, k, d)."""
    return values.gather(-2, rows[..., None].expand(*rows.shape, values.shape[-1]))
