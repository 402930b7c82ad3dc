"""The exact compiled simulator of CJS, its vectorised environment and its Gymnasium view."""

from edgenetllm.tasks.cjs.simulator.core import play

__all__ = ["play"]
