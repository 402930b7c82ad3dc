"""Calibration windows from text: every one a stretch of it, no token twice."""

from __future__ import annotations

import pytest
import torch

from edgenetllm.errors import UserError
from edgenetllm.pruning.text import default_text, text_windows

TEXT = torch.stack(
    [torch.arange(103.0), -torch.arange(103.0)], dim=1
)  # (tokens, width): each token says where it stands


@pytest.mark.parametrize(("windows", "length"), [(1, 103), (10, 10), (3, 7), (103, 1)])
def test_windows_are_whole_stretches_that_do_not_overlap(windows, length):
    cut = text_windows(TEXT, windows, length, seed=5)
    assert cut.shape == (windows, length, 2)
    places = cut[..., 0]
    assert torch.equal(places - places[:, :1], torch.arange(float(length)).expand(windows, length))
    assert len(places.unique()) == windows * length
    assert torch.equal(cut[..., 1], -places)


def test_the_seed_chooses_the_windows():
    first, again, other = (text_windows(TEXT, 4, 5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_more_windows_than_the_text_has_is_a_clear_error():
    with pytest.raises(UserError, match=r"pruning\.windows=11: .* 103 tokens, which makes 10 windows of 10 tokens"):
        text_windows(TEXT, 11, 10, seed=0)


def test_the_default_text_is_long_and_mostly_english():
    words = default_text().split()
    assert len(words) > 40_000
    assert sum(word in {"the", "of", "a", "is", "to", "in", "and"} for word in words) > len(words) / 10
