"""The exact compiled simulator of ABR, its vectorised environment and its Gymnasium view."""

from edgenetllm.tasks.abr.simulator.core import play

__all__ = ["play"]
