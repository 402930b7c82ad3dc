"""The supervised target of a decision, as a rule gives it: its action, and how probable it finds each stage.

A row of `LENGTH` numbers: index in the schedulable list (-1: leave the executors idle) and number of executors of the action
that was intended, then TOP_CHOICES pairs of an index and its probability, zeros where there are fewer. A rule that gives
stages no score has probability one for its own. The greatest probabilities are enough: beyond the eighth stage they are
close to zero.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgenetllm.tasks.observation import Array

TOP_CHOICES = 8
LENGTH = 2 + 2 * TOP_CHOICES


def one_hot_target(actions: Array) -> npt.NDArray[np.float32]:
    """(episodes, 2) -> (episodes, LENGTH)."""
    target = np.zeros((len(actions), LENGTH), np.float32)
    target[:, :2] = actions
    target[:, 2], target[:, 3] = actions[:, 0], 1
    return target


def softmax_target(actions: Array, scores: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float32]:
    """(episodes, 2) and scores of the schedulable list (episodes, most), -inf beyond its end -> (episodes, LENGTH).

    Probabilities are exp(score / temperature) over the sum of those of the top choices. Episodes that are done, without any
    stage, get a one-hot target.
    """
    target = one_hot_target(actions)
    alive = np.isfinite(scores).any(1)
    some = scores[alive]
    order = np.argsort(-some, axis=1, kind="stable")[:, :TOP_CHOICES]
    top = np.take_along_axis(some, order, 1)
    weights = np.exp((top - top[:, :1]) / temperature)
    choices = order.shape[1]
    target[alive, 2 : 2 + 2 * choices : 2] = np.where(np.isfinite(top), order, 0)
    target[alive, 3 : 3 + 2 * choices : 2] = weights / weights.sum(1, keepdims=True)
    return target
