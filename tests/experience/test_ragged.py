"""Columns of different lengths against plain lists."""

from __future__ import annotations

import numpy as np

from edgenetllm.experience.ragged import from_steps, join, pad
from edgenetllm.tasks.task import Ragged


def test_rows_come_back_where_they_were():
    rng = np.random.default_rng(0)
    parts, rows = [], []
    for episodes, steps in ((3, 5), (2, 7)):
        count = rng.integers(0, 4, (episodes, steps)).astype(np.int32)
        values = [[rng.random((count[e, t], 2)) for t in range(steps)] for e in range(episodes)]
        seen = []
        for t in range(steps):
            padded = np.full((episodes, 4, 2), np.nan)
            for e in range(episodes):
                padded[e, : count[e, t]] = values[e][t]
            seen.append(Ragged(padded, count[:, t]))
        parts.append(from_steps(seen))
        rows += values
    column = join(parts)
    for episode, start, stop in ((0, 1, 4), (2, 0, 5), (3, 4, 7)):
        np.testing.assert_array_equal(column.rows(episode, start, stop), np.concatenate(rows[episode][start:stop]))
    batch = pad(column, [(1, 2, 5), (4, 4, 7)])
    assert batch.values.shape == (2, 3, batch.count.max(), 2)
    for n, (episode, start) in enumerate(((1, 2), (4, 4))):
        for t in range(3):
            expected = rows[episode][start + t]
            np.testing.assert_array_equal(batch.values[n, t, : batch.count[n, t]], expected)
            assert not batch.values[n, t, len(expected) :].any()
    assert not column.count[:3, 5:].any()  # the shorter episodes end earlier
