"""The numbers that describe a history to a network: what both the encoder and its counterpart at the edge are made with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.supervised.angles import difference
from edgenetllm.tasks.supervised.data.windows import Windows
from edgenetllm.tasks.supervised.simulator.forecast import Form

HIDDEN = 128  # of the encoder's network
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Statistics:
    """Sizes of the training data, so that what a network sees and predicts is of about unit size."""

    centre: Numbers  # (inputs,) mean
    scale: Numbers  # (inputs,) standard deviation
    moved: Numbers  # (inputs,) mean distance from the last row of the history
    base: Numbers  # (answers,) mean, from which answers count that are no inputs
    change: Numbers  # (answer rows, answers) mean distance of an answer from its last known row, or from `base`


def statistics_of(windows: Windows, columns: tuple[str, ...], form: Form) -> Statistics:
    """The statistics of training questions; where nothing ever changes, 1."""
    inputs, answers = ([columns.index(name) for name in names] for names in (form.inputs, form.answers))
    history, right = windows.before(form.history)[..., inputs], windows.after(form.answer_rows)[..., answers]
    seen = windows.values[:, inputs]
    base = windows.values[:, answers].mean(0)
    moved = np.abs(difference(history, history[:, -1:], np.asarray(form.periods))).mean((0, 1))
    known = np.stack([history[:, -1, place] if place >= 0 else np.full(len(right), base[number])
                      for number, place in enumerate(form.seen_again)], axis=-1)  # fmt: skip
    change = np.abs(difference(right, known[:, None], np.asarray(form.answer_periods))).mean(0)
    return Statistics(seen.mean(0), _positive(seen.std(0)), _positive(moved), base, _positive(change))


def _positive(sizes: Numbers) -> Numbers:
    return np.where(sizes > 1e-12, sizes, 1.0)


def features_per_row(form: Form) -> int:
    """The numbers of one row of a history: per input how far it is from the last row, and where it is."""
    angles = sum(period > 0 for period in form.periods)
    return 2 * len(form.inputs) + angles  # the place of an angle is a sine and a cosine
