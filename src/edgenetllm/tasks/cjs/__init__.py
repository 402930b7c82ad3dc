"""Cluster job scheduling (CJS): which stage gets how many executors, decided whenever executors become free."""

from pathlib import Path

from edgenetllm.tasks.compiled import cached_together

COMPILED = ("profiles", "state", "heap", "events", "observation", "wide_rule", "rules", "rollout", "environment")

with cached_together(Path(__file__).parent, COMPILED):
    from edgenetllm.tasks.cjs import environment, rollout  # noqa: F401  compiled modules, all that they import included
