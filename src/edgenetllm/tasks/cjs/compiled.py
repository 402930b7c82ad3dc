"""The compiled modules of CJS: `njit` for their functions, which are cached together."""

from pathlib import Path

from edgenetllm.tasks.compiled import Compiler

COMPILED = (
    "columns",
    *(
        f"simulator/{name}"
        for name in ("profiles", "state", "heap", "durations", "events", "waiting", "observation", "environment")
    ),
    *(f"policies/{name}" for name in ("wide_rule", "rules", "rollout")),
)

njit = Compiler(Path(__file__).parent, COMPILED)
