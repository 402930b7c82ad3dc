"""The modules that run on the edge. `load`, `Policy` and `Session` decide with a bundle, and need no torch.

import edgenetllm.edge as edge
policy = edge.load("bundle/")
session = policy.start()
action = session.decide(observation)
session.observe(reward)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgenetllm.errors import UserError
from edgenetllm.tasks.observation import Ragged

if TYPE_CHECKING:
    from edgenetllm.edge.policy import Policy, Session, load

__all__ = ["Policy", "Ragged", "Session", "UserError", "load"]


def __getattr__(name: str) -> Any:
    """`load`, `Policy` and `Session` with their compiled code, which other modules of this package do not need."""
    if name not in ("Policy", "Session", "load"):
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.policy"), name)
