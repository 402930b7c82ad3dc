"""Collected once, read back whole, damaged never."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from edgenetllm.errors import UserError
from edgenetllm.experience import collect as module
from edgenetllm.experience.collect import PoolEntry, collect
from edgenetllm.experience.datamodule import EpisodeDataset, SeededBatches
from edgenetllm.experience.pool import Pool, read_pool, subsample
from edgenetllm.experience.ragged import RaggedColumn


def make(task, folder, seed=0, shares=None) -> Pool:
    return collect(task, shares or [PoolEntry("teacher", 5, 0.2), PoolEntry("bba", 3)], seed, folder, workers=1)


def test_a_pool_is_collected_once_and_is_a_function_of_its_identity(task, tmp_path, monkeypatch):
    first = make(task, tmp_path)
    assert first.action.shape == (8, 47)
    assert first.info["decisions"] == 8 * 47
    monkeypatch.setattr(module, "_play_job", None)  # a second collection would fail
    again = make(task, tmp_path)
    np.testing.assert_array_equal(first.action, again.action)
    monkeypatch.undo()
    elsewhere = make(task, tmp_path / "other")
    for name, column in elsewhere.observation.items():
        np.testing.assert_array_equal(column, first.observation[name])
    assert (make(task, tmp_path, seed=1).reward != first.reward).any()


def test_soft_targets_are_the_teachers_even_where_noise_acted(task, tmp_path):
    pool = make(task, tmp_path, shares=[PoolEntry("teacher", 6, 0.5)])
    np.testing.assert_allclose(pool.target.sum(-1), 1, atol=1e-5)
    agreed = (pool.target.argmax(-1) == pool.action).mean()
    assert 0.4 < agreed < 0.75  # half of the actions are random, a sixth of those agree by chance
    clean = make(task, tmp_path, shares=[PoolEntry("teacher", 6)])
    assert (clean.target.argmax(-1) == clean.action).mean() > 0.9  # equal plans may differ


def test_in_a_mix_only_the_teachers_steps_have_soft_targets(task, tmp_path):
    pool = make(task, tmp_path)  # five episodes of the teacher, then three of bba
    np.testing.assert_allclose(pool.target.sum(-1).mean(1), [1, 1, 1, 1, 1, 0, 0, 0], atol=1e-5)
    head = task.head(4)
    hidden, taken = torch.randn(8, 47, 4), torch.from_numpy(pool.action)
    everything = torch.ones(8, 47, dtype=torch.bool)
    loss = head.loss(hidden, {}, taken, torch.from_numpy(pool.target), everything)
    logits = head.logits(hidden, {})
    soft = torch.nn.functional.cross_entropy(logits[:5].flatten(0, 1), torch.from_numpy(pool.target[:5]).flatten(0, 1))
    hard = torch.nn.functional.cross_entropy(logits[5:].flatten(0, 1), taken[5:].flatten())
    torch.testing.assert_close(loss, (5 * soft + 3 * hard) / 8)


def test_the_temperature_of_the_soft_targets_is_part_of_a_pools_identity(task, tmp_path):
    first = make(task, tmp_path, shares=[PoolEntry("robustmpc", 2)])
    task.temperature = 5.0
    second = make(task, tmp_path, shares=[PoolEntry("robustmpc", 2)])
    assert (first.target != second.target).any()


def test_return_to_go_is_the_sum_of_what_follows(task, tmp_path):
    pool = make(task, tmp_path)
    np.testing.assert_allclose(pool.return_to_go()[:, 0], pool.returns, rtol=1e-5)
    np.testing.assert_allclose(pool.return_to_go()[:, -1], pool.reward[:, -1], rtol=1e-5)
    np.testing.assert_allclose(pool.return_to_go()[:, 10], pool.reward[:, 10:].sum(1), rtol=1e-5)


def test_an_unknown_policy_is_named(task, tmp_path):
    with pytest.raises(UserError, match=r"robustmcp.*teacher"):
        make(task, tmp_path, shares=[PoolEntry("robustmcp", 3)])


@pytest.mark.parametrize("damage", ["columns", "schema", "gone"])
def test_a_damaged_pool_is_refused(task, tmp_path, damage):
    make(task, tmp_path)
    folder = next(path for path in tmp_path.iterdir() if path.is_dir())
    if damage == "columns":
        data = bytearray((folder / "columns.npz").read_bytes())
        data[len(data) // 2] ^= 1
        (folder / "columns.npz").write_bytes(data)
    elif damage == "schema":
        info = json.loads((folder / "pool.json").read_text())
        (folder / "pool.json").write_text(json.dumps(info | {"schema": 99}))
    else:
        (folder / "pool.json").unlink()
    with pytest.raises(UserError, match=folder.name):
        read_pool(folder)


def test_batches_are_a_function_of_seed_and_epoch_and_cover_the_pool():
    batches = SeededBatches(sequences=10, batch_size=4, batches=5, seed=1)
    epochs = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        epochs.append(list(batches))
    batches.set_epoch(1)
    assert list(batches) == epochs[1] != epochs[0]
    assert sorted(episode for batch in epochs[0] for episode in batch) == sorted(
        2 * list(range(10))
    )  # 20 draws: every episode twice


def test_a_batch_larger_than_the_pool_repeats_its_sequences_equally_often():
    batches = SeededBatches(sequences=3, batch_size=7, batches=6, seed=1)
    drawn = list(batches)
    assert [len(batch) for batch in drawn] == [7] * 6
    assert sorted(episode for batch in drawn for episode in batch) == sorted(14 * [0, 1, 2])
    assert all(max(batch.count(k) for k in range(3)) <= 4 for batch in drawn)
    parts = [list(SeededBatches(3, 7, 6, 1, ranks=2, rank=rank)) for rank in range(2)]
    for whole, *two in zip(drawn, *parts, strict=True):
        assert sorted(two[0].own + two[1].own) == sorted(whole)


def numbered(episodes: int) -> Pool:
    """A pool in which every value tells its episode, with a ragged column of which the first episodes have no rows."""
    number = np.arange(episodes)
    column = np.repeat(number[:, None], 4, 1)
    count = np.tile(number[:, None] % 3, (1, 4)).astype(np.int32)
    ragged = RaggedColumn(np.repeat(column.ravel(), count.ravel()), count)
    return Pool(
        {"x": column, "rows": ragged}, column, column.astype(float), column >= 0, column[..., None].astype(np.float32),
        number.astype(float), {"episodes": episodes},
    )  # fmt: skip


def test_a_fraction_of_the_pool_is_nested_seeded_and_whole_episodes():
    pool = numbered(1000)
    shares = {fraction: subsample(pool, fraction, 3) for fraction in (0.0001, 0.001, 0.01, 0.1, 0.999)}
    chosen = {fraction: set(share.action[:, 0].tolist()) for fraction, share in shares.items()}
    assert [len(numbers) for numbers in chosen.values()] == [1, 1, 10, 100, 999]
    assert chosen[0.0001] <= chosen[0.001] <= chosen[0.01] <= chosen[0.1] <= chosen[0.999]
    assert subsample(pool, 1.0, 3) is pool
    assert set(subsample(pool, 0.1, 4).action[:, 0].tolist()) != chosen[0.1]
    share = shares[0.1]
    assert share.info == pool.info  # it is still that pool
    for episode, number in enumerate(share.action[:, 0].tolist()):
        for column in (share.observation["x"], share.reward, share.target, share.reference):
            assert (column[episode] == number).all()
        rows = share.observation["rows"].rows(episode, 0, 4)
        np.testing.assert_array_equal(rows, np.full(4 * (number % 3), number))


def test_a_batch_has_what_the_policy_needs(task, tmp_path):
    dataset = EpisodeDataset(make(task, tmp_path, shares=[PoolEntry("teacher", 4)]))
    batch = dataset[[0, 2]]
    assert batch["return_to_go"].dtype == torch.float32
    assert batch["target"].shape == (2, 47, 6)
    assert all(value.shape[:2] == (2, 47) for value in batch["observation"].values())
