"""The names that a task gives to metrics, policies, episodes and columns, checked before anything expensive starts."""

from __future__ import annotations

from edgenetllm.config import Config
from edgenetllm.edge.agent.fallback import fallback_of
from edgenetllm.edge.export import describe_fallbacks
from edgenetllm.errors import UserError
from edgenetllm.experience.rollout import play
from edgenetllm.tasks.names import (
    GUARDED,
    METRICS_COLUMNS,
    OURS,
    check_episodes,
    check_identifiers,
    check_policies,
    is_label,
)
from edgenetllm.tasks.task import Task, identity_of


def check_tasks(config: Config) -> None:
    """Raises UserError for a name that the files of a run could not hold, with what gives it."""
    if not is_label(config.model.label):
        raise UserError(
            f"the model's label {config.model.label!r} must be up to 200 printable characters, without a slash and not a "
            "dot first"
        )
    for task in config.task_objects.values():
        check_task(task)


def check_task(task: Task) -> None:
    """Raises UserError as `check_tasks`, and for a policy without an identity.

    One decision of one test episode is played, for the columns of its record.
    """
    who = f"{type(task).__module__}.{type(task).__qualname__}"
    check_identifiers([task.name], f"{who}.name")
    check_identifiers([metric.name for metric in task.metrics], f"{who}.metrics", METRICS_COLUMNS)
    baselines = task.baselines()
    check_policies(baselines, f"{who}.baselines()")
    if taken := [name for name in (*OURS, GUARDED) if name in baselines]:
        raise UserError(f"{who}.baselines(): {taken[0]!r} is the name of our own model: choose another")
    for policy in baselines.values():
        identity_of(policy)
    fallbacks = task.fallbacks()
    check_policies(fallbacks, f"{who}.fallbacks()")
    for name in fallbacks:  # as a bundle will describe it
        fallback_of({"fallback": describe_fallbacks({task.name: fallbacks})}, task.name, name)
    names, seeds = task.episode_names("test"), task.seeds("test")
    check_episodes(names, f"{who}.episode_names('test')")
    if len(names) != len(seeds):
        raise UserError(f"{who}.episode_names('test'): {len(names)} names for {len(seeds)} episodes")
    play(task.environment("test"), seeds[:1], task.teacher(), limit=1)  # refuses columns of its record
