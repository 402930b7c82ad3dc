"""Adaptive bitrate streaming: choose the quality of each video chunk while the network changes."""

from pathlib import Path

from edgenetllm.tasks.compiled import cached_together

with cached_together(Path(__file__).parent, ("simulator", "mpc", "optimum")):
    from edgenetllm.tasks.abr import mpc, optimum  # noqa: F401  compiled modules, the simulator included
