"""The edge at run time knows nothing of Lightning, Hydra, W&B or peft, and tasks know nothing of language models."""

from __future__ import annotations

import subprocess
import sys

import pytest

EDGE = "import edgenetllm.edge.engine, edgenetllm.edge.replay, edgenetllm.models.session"
MODULES = [f"edgenetllm.tasks.{task}.{name}" for task in ("abr", "cjs") for name in ("task", "simulator.gym")]
AGENT = "import edgenetllm.edge.serve, edgenetllm.edge.agent.service"
TASKS = f"import {', '.join(MODULES)}"


@pytest.mark.parametrize(
    ("imports", "forbidden"),
    [
        (EDGE, ("lightning", "hydra", "wandb", "peft", "omegaconf")),
        (AGENT, ("torch", "transformers", "hydra", "wandb", "pooch", "pydantic", "pandas", "pyarrow", "gymnasium")),
        (TASKS, ("lightning", "hydra", "wandb", "peft", "transformers", "edgenetllm.models", "edgenetllm.experience")),
    ],
)
def test_rooms_import_only_what_they_may(imports, forbidden):
    code = f"{imports}; import sys; print([name for name in {forbidden!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
