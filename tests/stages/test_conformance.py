"""The check of a task finds each kind of mistake, and none where there is none."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from small import ROOT, make_task
from torch import nn
from toy_room import LONGEST, Room, RoomTask, thermostat
from typed import surroundings

from edgenetllm.stages.conformance_report import CHECKS, run_checks
from edgenetllm.stages.examined import Examined, identities_of
from edgenetllm.tasks.common.encoders import VectorEncoder
from edgenetllm.tasks.common.heads import ChoiceHead, GaussianHead
from edgenetllm.tasks.common.heuristic import FunctionPolicy, Heuristic
from edgenetllm.tasks.task import Ragged

numbers = itertools.count(1)


def problems(task, again=None) -> dict[str, str]:
    """Check -> what is wrong."""
    seen = Examined(task, lambda: identities_of(again or type(task)()))
    return {name: problem for name, problem in run_checks(seen) if problem is not None}


def test_a_task_that_keeps_the_protocol_passes():
    assert problems(RoomTask()) == {}
    assert problems(make_task(), make_task()) == {}


class Unseeded(Room):
    def reset(self, seeds):
        super().reset(seeds)
        self.warmth = np.random.default_rng().uniform(size=len(seeds))
        return self.observe()


class Same(Room):
    def reset(self, seeds):
        return super().reset(np.zeros(len(seeds), np.int64))


class Entangled(Room):
    """An episode depends on how many are played."""

    def reset(self, seeds):
        super().reset(seeds)
        self.warmth = self.warmth + 0.1 * len(seeds)
        return self.observe()


class Paying(Room):
    def step(self, actions):
        observation, reward, done = super().step(actions)
        return observation, reward - 1, done


class Reviving(Room):
    def step(self, actions):
        observation, reward, _ = super().step(actions)
        return observation, reward, self.step_number == self.lengths


class Growing(Room):
    def observe(self):
        return {"warmth": self.warmth, **({"more": self.warmth} if self.step_number > 2 else {})}


class Narrow(Room):
    def step(self, actions):
        observation, reward, done = super().step(actions)
        return observation, reward, done.astype(np.int64)


class Infinite(Room):
    def observe(self):
        return {"warmth": self.warmth, "age": np.full(len(self.warmth), np.inf)}


class Endless(Room):
    def reset(self, seeds):
        observation = super().reset(seeds)
        self.lengths = self.lengths + LONGEST
        return observation


class Whole(Room):
    """Takes a sampled action of another type."""

    def sample(self, rng):
        return rng.integers(0, 2, (len(self.seeds), 1))


class Miscounted(Room):
    def observe(self):
        rows = np.zeros((len(self.warmth), 2, 3))
        return {"warmth": self.warmth, "rows": Ragged(rows, np.full(len(self.warmth), 3, np.int32))}


class Forgetful(Heuristic):
    name = "forgetful"

    def __init__(self):
        self.taken = 0

    def act(self, observation):
        self.taken += 1
        return np.full((len(observation["warmth"]), 1), 0.01 * self.taken)


class Nameless(FunctionPolicy):
    def __init__(self, gain):
        super().__init__("gentle", thermostat, gain=gain)

    def identity(self):
        return "a thermostat"


class Hashed(FunctionPolicy):
    def identity(self):
        return f"thermostat {next(numbers)}"


class Addressed(FunctionPolicy):
    def identity(self):
        return str(self.function)


class PartialMean(GaussianHead):
    """Divides by what it sees instead of by what it is given."""

    def loss(self, hidden, embedded, action, target, mask, counts=None):
        return super().loss(hidden, embedded, action, target, mask, None)


class Padded(GaussianHead):
    def loss(self, hidden, embedded, action, target, mask, counts=None):
        decisions = mask.sum() if counts is None else counts[0]
        return (self.logits(hidden, embedded) - action).square().sum() / decisions


class Smoothing(VectorEncoder):
    """Sees the steps before."""

    def embed(self, observation):
        return {"warmth": observation["warmth"].cumsum(1)}


class TwoTokens(VectorEncoder):
    tokens_per_step = 2


class Trembling(GaussianHead):
    """Decides by what else is decided."""

    def decide(self, hidden, embedded, generator=None):
        return super().decide(hidden, embedded, generator) + hidden.shape[1]


def method(value):
    return lambda self, *arguments: value


def encoder_of(kind):
    return lambda self, width: kind(width, {"warmth": 1.0}, action=nn.Linear(1, width))


WRONG = [
    ("seeds", "other rewards the second time", {"environment": lambda self, split: Unseeded()}),
    ("seeds", "all give the same episode", {"environment": lambda self, split: Same()}),
    ("seeds", "played without the others", {"environment": lambda self, split: Entangled()}),
    ("seeds", "a seed twice", {"seeds": method(np.zeros(4, np.int64))}),
    ("seeds", "must be int64", {"seeds": method(np.arange(4.0))}),
    ("names", "two episodes are called 'a'", {"episode_names": method(["a"] * 4)}),
    ("done", "another reward than 0", {"environment": lambda self, split: Paying()}),
    ("done", "goes on", {"environment": lambda self, split: Reviving()}),
    ("baselines", f"not done after max_steps={LONGEST}", {"environment": lambda self, split: Endless()}),
    ("baselines", "start\\(\\) must clear", {"baselines": lambda self: {"forgetful": Forgetful()}}),
    ("shapes and types", "changes its layout", {"environment": lambda self, split: Growing()}),
    ("shapes and types", "done must be bool", {"environment": lambda self, split: Narrow()}),
    ("shapes and types", "actions must have one type", {"environment": lambda self, split: Whole()}),
    ("shapes and types", "the count of 'rows'", {"environment": lambda self, split: Miscounted()}),
    ("shapes and types", "must give 'comfort'", {"summarise": method({"comfort": np.zeros(2), "warmth": np.zeros(3)})}),
    ("finite values", "observation age", {"environment": lambda self, split: Infinite()}),
    ("return-to-go", "relative_return=True, but", {"relative_return": True}),
    ("return-to-go", "relative_return=False, but", {"reference_returns": lambda self, seeds: np.ones(len(seeds))}),
    (
        "return-to-go",
        "column reference has the shape",
        {"relative_return": True, "reference_returns": lambda self, seeds: np.zeros(len(seeds))},
    ),
    ("return-to-go", "choose a return_scale", {"return_scale": 1e-6}),
    ("encoder and head", r"encoder.state\(\) must be", {"encoder": encoder_of(TwoTokens)}),
    ("encoder and head", r"head.decide\(\) gives torch.int64", {"head": lambda self, width: ChoiceHead(width, 3)}),
    ("loss", "the mean over its two parts", {"head": lambda self, width: PartialMean(width, 1)}),
    ("loss", "outside of the mask", {"head": lambda self, width: Padded(width, 1)}),
    ("step by step", "each step by itself", {"encoder": encoder_of(Smoothing)}),
    ("step by step", "one by one", {"head": lambda self, width: Trembling(width, 1)}),
    ("identities", "another one when", {"data_hash": lambda self, splits=(): str(next(numbers))}),
    ("identities", "another one when", {"teacher": lambda self: Hashed("thermostat", thermostat)}),
    ("identities", "address in memory", {"teacher": lambda self: Addressed("thermostat", thermostat)}),
    ("identities", "one identity, but", {"baselines": lambda self: {"a": Nameless(0.1), "b": Nameless(0.3)}}),
    ("identities", "must be a text", {"data_hash": lambda self, splits=(): 3}),
    ("names", "has no identity", {"baselines": lambda self: {"a": SimpleNamespace(name="a")}}),
    ("seeds", r"ZeroDivisionError: .*test_conformance.py:\d+", {"environment": lambda self, split: 1 / 0}),
]  # fmt: skip


@pytest.mark.parametrize(("check", "message", "change"), WRONG, ids=[f"{check}: {text}" for check, text, _ in WRONG])
def test_each_mistake_is_found(check, message, change):
    found = problems(type("Wrong", (RoomTask,), change)())
    assert check in found, found
    assert re.search(message, found[check]), found


def test_there_is_a_mistake_for_every_check():
    assert {check for check, _, _ in WRONG} == set(CHECKS)


@pytest.fixture
def conf(tmp_path):
    """A folder for --config-dir with a task of another package, whose policy's identity differs between processes."""
    (tmp_path / "task").mkdir()
    (tmp_path / "hasty.py").write_text(
        "from toy_room import RoomTask\n\n\n"
        "class Task(RoomTask):\n"
        "    def __init__(self, name, data):\n        pass\n\n"
        "    def data_hash(self, splits=()):\n        return str(hash('generated'))\n"
    )
    (tmp_path / "task" / "hasty.yaml").write_text("_target_: hasty.Task\nname: room\n")
    return tmp_path


def check(conf, *words):
    path = os.pathsep.join([str(conf), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "edgenetllm.tasks.check", "--config-dir", str(conf), *words]
    env = {**surroundings(), "PYTHONPATH": path}
    return subprocess.run(command, cwd=conf, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_program_ends_with_1_and_sees_a_hash_that_another_process_does_not_have(conf):
    done = check(conf, "task=hasty", "data=synthetic")
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(CHECKS)
    assert [line for line in lines if not line.endswith(": ok")] == [
        "room identities: data_hash() is another one when the task is built again"
    ]
    assert "1 checks failed" in done.stderr


def test_words_that_are_not_understood_end_with_2(conf):
    done = check(conf, "task=hsaty")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Did you mean hasty?" in done.stderr
    done = check(conf, "-m", "task=hasty")
    assert done.returncode == 1
    assert "leave -m away" in done.stderr
