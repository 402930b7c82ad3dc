"""Fill an experience pool: a mix of policies plays training episodes, in parallel over cores, and only once."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
from joblib import delayed

from edgenetllm.code_identity import code_identity
from edgenetllm.errors import UserError
from edgenetllm.experience.actions import check_actions
from edgenetllm.experience.entries import PoolEntry
from edgenetllm.experience.pool import SCHEMA, Pool, read_pool, write_pool
from edgenetllm.experience.rollout import Episodes, play
from edgenetllm.locks import exclusive
from edgenetllm.option_types import Backend
from edgenetllm.parallel import parallel
from edgenetllm.printable import say
from edgenetllm.progress import tqdm
from edgenetllm.tasks.common.truth import Truth
from edgenetllm.tasks.task import LEARNT_FROM, Array, Policy, Task, classes_of, identity_of

# Limits of one piece of parallel work.
EPISODES_PER_JOB = 50
RECORDED_PER_JOB = 5_000  # of a finite training set, whose episodes need no simulator
STEPS_PER_JOB = 100_000
LIBRARIES = ("numpy", "numba", "torch")  # that the simulators and the policies compute with


def pool_identity(
    task: Task, entries: list[PoolEntry], played: list[Policy], seed: int, options: Mapping[str, Any]
) -> dict[str, object]:
    """Everything that determines a pool; `played` are the policies of the entries, `options` those of task and data."""
    return {
        "schema": SCHEMA,
        "task": task.name,
        "options": dict(options),
        "data": task.data_hash(LEARNT_FROM),
        "code": code_identity(*classes_of(task), *map(type, played), __name__),
        "shares": [
            [identity_of(who), episodes_of(entry, task), entry.action_noise]
            for entry, who in zip(entries, played, strict=True)
        ],
        "seed": seed,
        "versions": {name: metadata.version(name) for name in LIBRARIES},
    }


def pool_folder(
    task: Task,
    entries: list[PoolEntry],
    seed: int,
    folder: Path,
    expert: Policy | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """The folder of the pool of this identity under `folder`, whether it exists or not.

    Raises UserError when an entry names a policy that the task does not have, and for a policy without an identity.
    """
    return _place(folder, task, _identify(task, entries, seed, _policies(task, expert), options))


def _place(folder: Path, task: Task, identity: dict[str, object]) -> Path:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
    return folder / f"{task.name}-{digest[:16]}"


def _identify(
    task: Task, entries: list[PoolEntry], seed: int, policies: dict[str, Policy], options: Mapping[str, Any]
) -> dict[str, object]:
    for entry in entries:
        if entry.policy not in policies:
            raise UserError(f"experience.shares: no policy {entry.policy!r}; there are {', '.join(policies)}")
    for policy in policies.values():  # all of them are replayed later
        identity_of(policy)
    return pool_identity(task, entries, [policies[entry.policy] for entry in entries], seed, options)


def _policies(task: Task, expert: Policy | None) -> dict[str, Policy]:
    more = {} if expert is None else {"expert": expert}
    return {"truth": Truth(), "teacher": task.teacher(), **task.baselines(), **more}


def episodes_of(entry: PoolEntry, task: Task) -> int:
    """The number of episodes of an entry, at most those that a finite training set has.

    Raises UserError for none where a task draws as many as it is asked for.
    """
    if task.training_set is not None:
        return min(entry.episodes or task.training_set, task.training_set)
    if not entry.episodes:
        raise UserError(
            f"budget.episodes (experience.shares: episodes) is null, but task={task.name} draws as many training episodes as "
            "it is asked for: give a number"
        )
    return entry.episodes


def _seeds(task: Task, seed: int, number: int, episodes: int) -> npt.NDArray[np.int64]:
    """The training seeds of an entry: consecutive ones, or of a finite training set a draw without repetition."""
    if task.training_set is not None:
        return np.random.default_rng([seed, number]).permutation(task.training_set)[:episodes].astype(np.int64)
    first = np.random.SeedSequence([seed, number]).generate_state(1)[0].astype(np.int64)
    return first + np.arange(episodes, dtype=np.int64)


def collect(
    task: Task,
    entries: list[PoolEntry],
    seed: int,
    folder: Path,
    workers: int,
    expert: Policy | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    backend: Backend = "joblib",
) -> Pool:
    """The pool of this identity from `folder`, collected first when it is not there; `expert` is one more policy.

    `workers` play at a time, where `backend` says. `options` are those of the task and its data that can change what is
    played. A stored pool that is damaged or altered counts as absent. Raises UserError when an entry names a policy that the
    task does not have, for a policy without an identity, and for a `backend` that cannot be used.
    """
    policies = _policies(task, expert)
    identity = _identify(task, entries, seed, policies, options)
    target = _place(folder, task, identity)
    with exclusive(target, "experience pool"):
        # Use the stored pool if there is one.
        stored = _read(target, task)
        if stored is not None:
            return stored
        # Divide the episodes of each entry into pieces of work, a function of the seed.
        jobs, played = [], []
        most = EPISODES_PER_JOB if task.training_set is None else RECORDED_PER_JOB
        together = max(1, min(most, STEPS_PER_JOB // task.max_steps))
        for number, entry in enumerate(entries):
            all_seeds = _seeds(task, seed, number, episodes_of(entry, task))
            for start in range(0, len(all_seeds), together):
                seeds = all_seeds[start : start + together]
                played.append(seeds)
                jobs.append(delayed(_play_job)(task, policies[entry.policy], entry.action_noise, seeds))
        # Play them and store the pool.
        with parallel(workers, backend, return_as="generator") as compute:
            unit = f"x{together} episodes"
            episodes = list(tqdm(compute(jobs), total=len(jobs), desc="experience pool", unit=unit))
        write_pool(target, episodes, identity, task.reference_returns(np.concatenate(played)))
        return read_pool(target)


def _read(target: Path, task: Task) -> Pool | None:
    """The stored pool; None where there is none, or (which is said) where it is damaged: then it is removed."""
    if not target.exists():
        return None
    try:
        pool = read_pool(target)
        check_actions(pool, task, target)
        return pool
    except UserError as error:
        say(f"warning: stored before, but damaged or altered, and collected again: {error}", file=sys.stderr)
        shutil.rmtree(target)
        return None


def _play_job(task: Task, policy: Policy, action_noise: float, seeds: Array) -> Episodes:
    environment = task.environment("train")
    rng = np.random.default_rng(seeds)

    def disturb(actions: Array) -> Array:
        random = environment.sample(rng)
        chosen = rng.random(len(actions)) < action_noise
        return np.where(chosen.reshape(-1, *[1] * (actions.ndim - 1)), random, actions)

    return play(
        environment,
        seeds,
        copy.deepcopy(policy),
        keep_observations=True,
        disturb=disturb if action_noise else None,
    )
