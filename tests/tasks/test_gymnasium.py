"""The simulators under the names that Gymnasium registers."""

from __future__ import annotations

import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import edgenetllm.tasks.abr.simulator.gym
import edgenetllm.tasks.cjs.simulator.gym  # noqa: F401

NAMES = ["EdgeNetLLM/Abr-v0", "EdgeNetLLM/Cjs-v0"]


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_simulator_needs_no_file_and_passes_gymnasiums_own_checks(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*[oO]bservation.*infinity.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        view = gymnasium.make(name)
        check_env(view.unwrapped, skip_render_check=True)
    view.reset(seed=1)
    view.action_space.seed(0)
    total, ended, steps = 0.0, False, 0
    while not ended:
        _, reward, ended, cut, _ = view.step(view.action_space.sample())
        total, steps = total + reward, steps + 1
        assert not cut
    assert steps > 40
    assert total != 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_of_reset_draws_the_episode(name):
    first, again, other = (gymnasium.make(name).reset(seed=seed) for seed in (3, 3, 4))
    assert first[1] == again[1] != other[1]
    for one, same in zip(_flat(first[0]), _flat(again[0]), strict=True):
        np.testing.assert_array_equal(one, same)


def _flat(observation):
    return list(observation.values()) if isinstance(observation, dict) else [observation]


def test_options_of_make_reach_the_simulator():
    short = gymnasium.make("EdgeNetLLM/Abr-v0", traces=3, qoe="log").unwrapped
    assert (len(short.environment.traces), short.environment.qoe.name) == (3, "log")
    assert gymnasium.make("EdgeNetLLM/Cjs-v0", setting="default").unwrapped.environment.rules.executors == 50


def test_an_action_that_is_not_folded_is_refused():
    strict = gymnasium.make("EdgeNetLLM/Cjs-v0", fold=False)
    strict.reset(seed=0)
    with pytest.raises(ValueError, match="episode 0: action"):
        strict.step(np.array([999, 1]))


@pytest.mark.parametrize("name", NAMES)
def test_gymnasium_imports_the_module_that_is_part_of_a_name(name):
    code = f"import gymnasium; print(gymnasium.make('edgenetllm.tasks.registration:{name}').spec.id)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == name, done.stderr
