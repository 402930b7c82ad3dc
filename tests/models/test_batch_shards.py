"""A batch that is computed in shards, by several ranks or one after the other, has the loss and gradient of the whole."""

from __future__ import annotations

import pytest
import torch
from small import ARCHITECTURES, make_policy, make_task

from edgenetllm.errors import UserError
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import EpisodeDataset, SeededBatches
from edgenetllm.tasks.cjs.data.datasets import SyntheticDags
from edgenetllm.tasks.cjs.task import CjsTask


def batches_of(ranks: int, accumulate: int) -> list[list]:
    """The episodes that each rank sees in an epoch."""
    return [list(SeededBatches(20, 8, 5, 3, ranks, rank, accumulate)) for rank in range(ranks)]


@pytest.mark.parametrize(("ranks", "accumulate"), [(2, 1), (1, 3), (2, 2), (3, 2)])
def test_the_shards_of_all_ranks_are_the_batch_of_one_process(ranks, accumulate):
    (whole,) = batches_of(1, 1)
    shards = batches_of(ranks, accumulate)
    for number, batch in enumerate(whole):
        of_step = [shard for rank in shards for shard in rank[number * accumulate : (number + 1) * accumulate]]
        assert sorted(sequence for shard in of_step for sequence in shard.own) == sorted(batch)
        assert all(shard.whole == batch and shard.shards == ranks * accumulate for shard in of_step)


def test_more_shards_than_sequences_are_refused():
    with pytest.raises(UserError, match=r"trainer\.devices x trainer\.accumulate"):
        SeededBatches(20, 4, 5, 3, ranks=3, accumulate=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["abr", "pointer", "per_stage"])
def test_the_mean_over_unequal_shards_is_the_loss_and_gradient_of_the_batch(tmp_path, kind):
    """Segments at the end of an episode are shorter, and not every decision of a scheduler chooses a stage."""
    data = SyntheticDags(name="synthetic_dags", setting="tiny", seed=0)
    task = make_task() if kind == "abr" else CjsTask("cjs", data, kind, 5, 16, 3, 4)  # type: ignore[arg-type]
    pool = collect(
        task, [PoolEntry("teacher", 3), PoolEntry("random" if kind != "abr" else "bba", 2)], 1, tmp_path, workers=1
    )
    if kind == "abr":
        pool.valid[1, 20:] = False
    dataset = EpisodeDataset(pool, task.segment)
    losses, gradients = {}, {}
    for ranks, accumulate in ((1, 1), (2, 2)):
        policy = make_policy(task, ARCHITECTURES["llama"]).double()
        for rank in range(ranks):
            first = list(SeededBatches(len(dataset), 5, 1, 0, ranks, rank, accumulate))
            for chosen in first:
                batch = dataset[chosen]
                observation = {n: v.double() if v.is_floating_point() else v for n, v in batch["observation"].items()}  # type: ignore[union-attr]
                wanted = {name: v.double() if name == "return_to_go" else v for name, v in batch.items()}
                loss = policy.loss(wanted, observation) / (ranks * accumulate)  # type: ignore[arg-type]
                loss.backward()
                losses[ranks] = losses.get(ranks, 0.0) + loss.item()
        gradients[ranks] = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}
    assert losses[2] == pytest.approx(losses[1], rel=1e-6)
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[2][name], gradient, rtol=1e-4, atol=1e-7)
