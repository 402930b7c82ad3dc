"""The compiled modules of ABR: `njit` for their functions, which are cached together."""

from pathlib import Path

from edgenetllm.tasks.compiled import Compiler

COMPILED = ("protocol", "simulator/turns", "simulator/core", "policies/optimum")

njit = Compiler(Path(__file__).parent, COMPILED)
