"""The modules that run on the edge. `load`, `Policy` and `Session` decide with a bundle, and need no torch.

import edgenetllm.edge as edge
policy = edge.load("bundle/")
session = policy.start()
action = session.decide(observation)
session.observe(reward)

`guarded(policy, Safety(deadline_ms=20, guard=True))` is the same policy with a fall-back below it (`agent/guarded.py`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgenetllm.errors import UserError
from edgenetllm.tasks.observation import Ragged

if TYPE_CHECKING:
    from edgenetllm.edge.agent.guarded import Safety, guarded
    from edgenetllm.edge.policy import Policy, Session, load

__all__ = ["Policy", "Ragged", "Safety", "Session", "UserError", "guarded", "load"]
MODULES = {
    "Policy": "policy", "Session": "policy", "load": "policy", "Safety": "agent.guarded", "guarded": "agent.guarded",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """The names above with their compiled code, which other modules of this package do not need."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)
