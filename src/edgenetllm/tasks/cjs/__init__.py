"""Cluster job scheduling (CJS): which stage gets how many executors, decided whenever executors become free."""

from pathlib import Path

from edgenetllm.tasks.compiled import cached_together

COMPILED = (
    *(f"simulator/{name}" for name in ("profiles", "state", "heap", "events", "observation", "environment")),
    *(f"policies/{name}" for name in ("wide_rule", "rules", "rollout")),
)

with cached_together(Path(__file__).parent, COMPILED):
    from edgenetllm.tasks.cjs.policies import rollout  # noqa: F401  compiled modules, all that they import included
    from edgenetllm.tasks.cjs.simulator import environment  # noqa: F401
