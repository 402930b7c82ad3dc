"""Adaptive bitrate streaming: choose the quality of each video chunk while the network changes."""

from pathlib import Path

from edgenetllm.tasks.compiled import cached_together

COMPILED = ("simulator/core", "policies/mpc", "policies/optimum")

with cached_together(Path(__file__).parent, COMPILED):
    from edgenetllm.tasks.abr.policies import mpc, optimum  # noqa: F401  compiled modules, the simulator included
