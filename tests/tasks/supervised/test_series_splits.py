"""Windows and splits: what was learnt from shares no row with what is tested."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenetllm.errors import UserError
from edgenetllm.tasks.supervised.angles import difference, unwrapped, wrapped
from edgenetllm.tasks.supervised.data.splits import by_group, by_time, without_copies
from edgenetllm.tasks.supervised.data.windows import Recording, windows_of


def recording(rows: int, start: int = 0, name: str = "one") -> Recording:
    return Recording(name, np.arange(start, start + rows, dtype=np.float64)[:, None])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=4),
    st.integers(1, 8),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(0, 12),
    st.integers(0, 12),
)
def test_questions_stay_within_their_recording(lengths, history, ahead, step, head, tail):
    recordings = [recording(rows, 1000 * number, f"r{number}") for number, rows in enumerate(lengths)]
    windows = windows_of(recordings, history, ahead, step, head, tail)
    before, after = windows.before(history)[..., 0], windows.after(ahead)[..., 0]
    assert (np.diff(np.concatenate([before, after], axis=1), axis=1) == 1).all()  # rows in order, of one recording
    expected = sum(
        len(
            [
                t
                for t in range(max(head, history), rows, step)
                if t + ahead <= rows and (t < rows - tail or tail <= ahead)
            ]
        )
        for rows in lengths
    )
    assert len(windows.starts) == len(windows.names) == expected


def test_netllm_s_number_of_questions():
    """range(30, rows - 60, step) for each recording (load_dataset.py)."""
    windows = windows_of([recording(300)], 10, 20, 15, 30, 60)
    assert windows.starts.tolist() == list(range(30, 240, 15))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 9), min_size=3, max_size=60), st.integers(0, 5))
def test_no_group_is_in_two_splits(groups, seed):
    if len(set(groups)) < 3:
        with pytest.raises(UserError, match="at least three groups"):
            by_group(groups, (0.2, 0.2), seed)
        return
    chosen = by_group(groups, (0.2, 0.2), seed)
    owners = {split: {groups[number] for number in numbers} for split, numbers in chosen.items()}
    assert all(owners.values())
    assert not owners["train"] & (owners["val"] | owners["test"])
    assert not owners["val"] & owners["test"]
    assert sorted(number for numbers in chosen.values() for number in numbers) == list(range(len(groups)))
    assert chosen == by_group(groups, (0.2, 0.2), seed)


def test_pieces_of_time_share_no_row_and_the_future_is_tested():
    pieces = by_time([recording(100)], (0.2, 0.1))
    rows = {split: pieces[split][0].values[:, 0].tolist() for split in pieces}
    assert rows == {"train": list(range(70)), "val": list(range(70, 90)), "test": list(range(90, 100))}


def test_copies_of_tested_recordings_are_dropped():
    splits = {"train": [recording(9), recording(9, 5)], "val": [recording(9, 5)], "test": [recording(9)]}
    kept, dropped = without_copies(splits)
    assert [len(kept[split]) for split in ("train", "val", "test")] == [0, 1, 1]
    assert dropped == 2


def test_angles_are_the_nearest_way_round():
    periods = np.array([360.0, 0.0])
    np.testing.assert_allclose(difference(np.array([179.0, 179]), np.array([-179.0, -179]), periods), [-2, 358])
    np.testing.assert_allclose(wrapped(np.array([190.0, 190]), periods), [-170, 190])
    turning = np.array([170.0, 178, -174, -166])[None, :, None]
    np.testing.assert_allclose(unwrapped(turning, np.array([360.0]))[0, :, 0], [170, 178, 186, 194])
