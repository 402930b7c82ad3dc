"""Splits of recordings without leaks: by group (a user, a video, a site, a day), or by time."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from edgenetllm.errors import UserError
from edgenetllm.tasks.supervised.data.windows import Recording
from edgenetllm.tasks.task import SPLITS, Split


def by_group(groups: Sequence[Hashable], fractions: tuple[float, float], seed: int) -> dict[Split, list[int]]:
    """The indices of each split; no group is in two of them.

    `groups` says of which group each recording is, `fractions` of validation and test. Groups are drawn with `seed`, at least
    one for each split. Raises UserError for fewer than three groups.
    """
    different = list(dict.fromkeys(groups))
    if len(different) < 3:
        raise UserError(
            f"a split by group needs at least three groups, one for each of {', '.join(SPLITS)}, and there are "
            f"{len(different)}: split by time (data.split=time)"
        )
    order = [different[number] for number in np.random.default_rng(seed).permutation(len(different))]
    val, test = (max(1, round(fraction * len(order))) for fraction in fractions)
    if val + test >= len(order):
        val = test = 1
    owner = dict.fromkeys(order[:test], "test") | dict.fromkeys(order[test : test + val], "val")
    chosen: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for number, group in enumerate(groups):
        chosen[owner.get(group, "train")].append(number)  # type: ignore[index]
    return chosen


def by_time(recordings: Sequence[Recording], fractions: tuple[float, float]) -> dict[Split, list[Recording]]:
    """Each recording in three pieces, training first and test last, which share no row.

    A question lies within one piece with its history and its answer, so that nothing of a test answer was seen before.
    """
    pieces: dict[Split, list[Recording]] = {split: [] for split in SPLITS}
    for one in recordings:
        ends = np.round(np.cumsum([1 - sum(fractions), *fractions]) * len(one.values)).astype(int)
        for split, start, end in zip(SPLITS, (0, *ends[:2]), ends, strict=True):
            pieces[split].append(Recording(f"{one.name} {split}", one.values[start:end]))
    return pieces


def without_copies(splits: dict[Split, list[Recording]]) -> tuple[dict[Split, list[Recording]], int]:
    """The splits without what is in a later one too (test before validation before training), and how many were dropped."""
    seen: set[bytes] = set()
    kept: dict[Split, list[Recording]] = {}
    dropped = 0
    for split in ("test", "val", "train"):
        own = [one.values.tobytes() for one in splits[split]]
        kept[split] = [one for one, key in zip(splits[split], own, strict=True) if key not in seen]
        dropped += len(own) - len(kept[split])
        seen.update(own)
    return {split: kept[split] for split in SPLITS}, dropped
