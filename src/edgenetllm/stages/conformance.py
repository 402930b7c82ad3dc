"""Checks that a task keeps the protocol of `tasks/task.py`, by playing a few of its episodes and training on none.

A check is a function of an `Examined` task that raises `Violation` with what is wrong. CHECKS in `conformance_report.py` has
them by name, in order; `python -m edgenetllm.tasks.check` runs them all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import act, play
from edgenetllm.stages.check_task import check_task
from edgenetllm.stages.examined import EPISODES, STEPS, Examined, Recorded, Violation, identities_of
from edgenetllm.tasks.task import Ragged, identity_of

LARGEST_RETURN = 1e3  # return-to-go after its division by return_scale


def names(seen: Examined) -> None:
    """Names and identities that the files of a run can hold, as before every run."""
    try:
        check_task(seen.task)
    except UserError as error:
        raise Violation(str(error)) from None


def seeds(seen: Examined) -> None:
    """A seed fixes an episode, whatever is played next to it, and different seeds differ."""
    for split in ("val", "test"):
        values = seen.task.seeds(split)  # type: ignore[arg-type]
        if values.dtype != np.int64 or values.ndim != 1 or not len(values):
            raise Violation(f"seeds({split!r}) must be int64 (episodes,), not {values.dtype} {values.shape}")
        if len(np.unique(values)) < len(values):
            raise Violation(f"seeds({split!r}) has a seed twice")
        if not np.array_equal(values, seen.task.seeds(split)):  # type: ignore[arg-type]
            raise Violation(f"seeds({split!r}) are others when they are asked for again")
    for split, chosen in (("train", np.arange(EPISODES)), ("test", seen.test)):
        _fixed_by_seed(seen, split, chosen)


def _fixed_by_seed(seen: Examined, split: Any, chosen: npt.NDArray[np.int64]) -> None:
    # An episode is played, and the same actions are taken again: by the same episodes, and by each of them alone.
    first = play(seen.task.environment(split), chosen, seen.task.teacher(), limit=STEPS)
    actions = Recorded(first.action)
    again = play(seen.task.environment(split), chosen, actions, limit=STEPS)
    if not np.allclose(first.reward, again.reward, rtol=1e-6):
        raise Violation(f"{split}: the same seeds and actions gave other rewards the second time")
    for episode in range(len(chosen)):
        one = slice(episode, episode + 1)
        alone = play(seen.task.environment(split), chosen[one], Recorded(first.action[one]), limit=STEPS)
        steps = alone.reward.shape[1]
        if not np.allclose(alone.reward, first.reward[one, :steps], rtol=1e-6) or first.valid[one, steps:].any():
            raise Violation(
                f"{split}: the episode of seed {chosen[episode]} is another one when it is played without the others"
            )
    # Other seeds, under the same actions: nothing that differs means that the seed is not used.
    if len(chosen) > 1:
        alike = Recorded(np.repeat(first.action[:1], len(chosen), axis=0))
        steps_of = play(seen.task.environment(split), chosen, actions, keep_observations=True, limit=1).observation
        begin_alike = all(_is_constant(column) for column in steps_of.values())
        try:
            rewards = play(seen.task.environment(split), chosen, alike, limit=STEPS).reward
        except ValueError:  # an action that only the first of them allows: so they differ
            return
        if begin_alike and _is_constant(rewards):
            raise Violation(f"{split}: the seeds {chosen.tolist()} all give the same episode")


def _is_constant(column: Any) -> bool:
    """True where all episodes have the same values."""
    values = getattr(column, "values", column)
    if values is not column:  # ragged
        first = column.rows(0, 0, column.count.shape[1])
        rows = [column.rows(episode, 0, column.count.shape[1]) for episode in range(len(column.count))]
        return all(np.array_equal(first, other) for other in rows)
    return bool((column == column[:1]).all())


def done(seen: Examined) -> None:
    """An episode that is done gives reward 0 and stays done, whatever it is given as action."""
    actions = seen.played["teacher"].action
    environment = seen.task.environment("test")
    environment.reset(seen.test)
    ended = np.zeros(len(seen.test), bool)
    for step in [*range(actions.shape[1]), -1, -1]:
        _, reward, now = environment.step(actions[:, step])
        environment.record()
        if (np.asarray(reward)[ended] != 0).any():
            raise Violation("an episode that is done gives another reward than 0")
        if (ended & ~np.asarray(now)).any():
            raise Violation("an episode that was done goes on")
        ended |= np.asarray(now)


def shapes(seen: Examined) -> None:
    """Shapes and types of what the environment and the policies give."""
    count = len(seen.test)
    environment = seen.task.environment("test")
    # The first decision of every policy, and one of the environment's own.
    kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, policy in seen.policies.items():
        observation = environment.reset(seen.test)
        policy.start(count)
        kinds[f"policy {name}"] = _kind(act(policy, environment, observation), count, f"policy {name}")
        if (target := policy.targets(observation)) is not None:
            given = np.asarray(target)
            if given.shape[:1] != (count,) or given.dtype.kind != "f":
                raise Violation(
                    f"policy {name}: targets() must be float ({count}, ...), not {given.dtype} {given.shape}"
                )
    kinds["sample()"] = _kind(environment.sample(np.random.default_rng(0)), count, "sample()")
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{name} {kind} {shape}" for name, (kind, shape) in kinds.items())
        raise Violation(f"actions must have one type and shape, but are {listed}")
    # Some steps of the teacher.
    observation, teacher = environment.reset(seen.test), seen.policies["teacher"]
    teacher.start(count)
    first, ended = _layout(observation, count, "reset"), np.zeros(count, bool)
    for _ in range(STEPS):
        if ended.all():
            break
        observation, reward, ended = environment.step(act(teacher, environment, observation))
        if (now := _layout(observation, count, "step")) != first:
            raise Violation(f"the observation changes its layout, from {first} to {now}")
        for what, value, kind in (("reward", reward, "float"), ("done", ended, "bool")):
            if np.shape(value) != (count,) or not np.asarray(value).dtype.name.startswith(kind):
                raise Violation(f"{what} must be {kind} ({count},), not {np.asarray(value).dtype} {np.shape(value)}")
        _layout(environment.record(), count, "record")
    # What is made of whole episodes.
    played = seen.played["teacher"]
    summary = seen.task.summarise(played.record, played.reward, played.valid)
    for metric in seen.task.metrics:
        shape = getattr(summary.get(metric.name), "shape", None)
        if shape != (count,):
            raise Violation(f"summarise() must give {metric.name!r} as an array ({count},), not {shape}")


def _layout(values: Mapping[str, Any], count: int, what: str) -> dict[str, tuple[str, Any]]:
    """Type and shape of each column, without the number of episodes. Raises Violation for what is no column."""
    columns = {}
    for name, value in values.items():
        ragged = isinstance(value, Ragged)
        array = value.values if ragged else np.asarray(value)
        if array.dtype.kind not in "iufb" or array.shape[:1] != (count,):
            raise Violation(f"{what}: {name!r} must be numbers ({count}, ...), not {array.dtype} {array.shape}")
        if ragged and (value.count.shape != (count,) or int(value.count.max(initial=0)) > array.shape[1]):
            raise Violation(f"{what}: the count of {name!r} does not fit its rows")
        columns[name] = (str(array.dtype), ("rows", *array.shape[2:]) if ragged else array.shape[1:])
    return columns


def _kind(given: Any, count: int, what: str) -> tuple[str, tuple[int, ...]]:
    action = np.asarray(given)
    kind = {"i": "int", "u": "int", "f": "float"}.get(action.dtype.kind)
    if kind is None or action.shape[:1] != (count,):
        raise Violation(f"{what}: actions must be numbers ({count}, ...), not {action.dtype} {action.shape}")
    return kind, action.shape[1:]


def finite(seen: Examined) -> None:
    """No observation, reward, target or metric is infinite or not a number."""
    for name, episodes in seen.played.items():
        values: dict[str, Any] = {f"observation {key}": column for key, column in episodes.observation.items()}
        summary = seen.task.summarise(episodes.record, episodes.reward, episodes.valid)
        values |= {f"metric {key}": value for key, value in summary.items()}
        values |= {"reward": episodes.reward, "action": episodes.action, "targets": episodes.target}
        for what, column in values.items():
            array = np.asarray(getattr(column, "values", column))
            if column is not None and array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Violation(f"policy {name}: {what} has values that are not finite")


def baselines(seen: Examined) -> None:
    """Every policy plays to the end of its episodes, and takes the same decisions each time."""
    for name, episodes in seen.played.items():
        if episodes.action.shape[1] > seen.most_steps:
            raise Violation(f"policy {name}: an episode is not done after max_steps={seen.task.max_steps} decisions")
        again = play(seen.task.environment("test"), seen.test, seen.policies[name], limit=STEPS)
        if not np.array_equal(again.action, episodes.action[:, : again.action.shape[1]]):
            raise Violation(
                f"policy {name}: it decides otherwise the second time: start() must clear what it remembers"
            )


def returns(seen: Examined) -> None:
    """Return-to-go follows from the rewards, or with `relative_return` from those of a reference policy."""
    pool, task = seen.pool, seen.task
    if task.relative_return != (pool.reference is not None):
        given = "none" if pool.reference is None else "some"
        raise Violation(f"relative_return={task.relative_return}, but reference_returns() gives {given}")
    reference = pool.reference
    if reference is not None and (
        reference.shape != (len(pool.valid),) or not np.isfinite(reference).all() or not reference.all()
    ):
        raise Violation("reference_returns() must give a finite number that is not 0 for each seed")
    return_to_go = pool.return_to_go()
    largest = float(np.abs(return_to_go).max())
    if pool.reference is None:
        next_return_to_go = np.append(return_to_go[:, 1:], np.zeros((len(return_to_go), 1)), axis=1)
        if not np.allclose(return_to_go - next_return_to_go, pool.reward * pool.valid, atol=1e-4 * max(1, largest)):
            raise Violation("return-to-go does not shrink by the rewards")
    size = largest / task.return_scale
    if not size <= LARGEST_RETURN:
        raise Violation(
            f"return-to-go is up to {largest:.3g}, {size:.3g} times return_scale={task.return_scale:g}: choose "
            "a return_scale of about the return of an episode"
        )


def identities(seen: Examined) -> None:
    """Identities of data and policies are texts that another process gives too, and tell apart what differs."""
    identities_of_first, identities_of_second = identities_of(seen.task), seen.identities_again()
    for what, value in identities_of_first.items():
        if not isinstance(value, str) or not value:
            raise Violation(f"{what} is {value!r}: it must be a text")
        if re.search(r" at 0x[0-9a-f]+", value):
            raise Violation(f"{what} holds an address in memory: {value[:80]!r}")
        if identities_of_second.get(what) != value:
            raise Violation(f"{what} is another one when the task is built again")
    by_identity: dict[str, str] = {}
    for name, policy in seen.policies.items():
        other = by_identity.setdefault(identity_of(policy), name)
        if not np.array_equal(seen.played[name].action, seen.played[other].action):
            raise Violation(f"the policies {other} and {name} have one identity, but decide differently")
