"""The Gymnasium view."""

import warnings

import numpy as np
from gymnasium.utils.env_checker import check_env

from edgenetllm.tasks.abr.simulator.gym import AbrGym


def test_passes_gymnasiums_own_checks(training):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*observation space m.*infinity.*")
        check_env(AbrGym(training), skip_render_check=True)


def test_equals_the_vectorised_environment(environment):
    view = AbrGym(environment)
    _, info = view.reset(options={"episode": 4})
    assert info == {"episode": 4}
    twin = environment.clone()
    actions = np.random.default_rng(0).integers(0, 6, 47)
    for action in actions:
        _, reward, terminated, truncated, _ = view.step(action)
        assert reward == twin.step(np.array([action]))[1][0]
        assert not truncated
    assert terminated
