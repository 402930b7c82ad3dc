"""A guarded policy always answers, and its model goes on from what was really done."""

from __future__ import annotations

import numpy as np
import pytest
from agents import bundle_of, play_with

from edgenetllm.edge.agent.faults import Faults
from edgenetllm.edge.agent.guarded import Safety


@pytest.fixture(scope="module", params=["abr", "cjs"])
def small(request, tmp_path_factory):
    return bundle_of(request.param, tmp_path_factory.mktemp(request.param))


def test_without_a_fault_every_decision_is_the_models_and_the_same(small):
    plain, _ = play_with(*small, None)
    wrapped, player = play_with(*small, Safety())
    np.testing.assert_array_equal(wrapped.action, plain.action)
    assert not player.session.events


@pytest.mark.parametrize("kind", ["raised", "not_finite"])
def test_faults_are_answered_by_the_fallback_and_counted(small, kind):
    task, folder = small
    played, player = play_with(task, folder, Safety(faults=Faults(kind, 1.0)))
    alone, _ = play_with(task, folder, Safety(faults=Faults(kind, 1.0), fallback=None))
    assert set(np.ravel(player.outcomes)) == {kind}
