"""The compiled rules: `njit` for their functions, which are cached together; they run without the simulator, too."""

from pathlib import Path

from edgenetllm.tasks.compiled import Compiler

njit = Compiler(Path(__file__).parents[1], ("columns", "policies/wide_rule", "policies/rules"))
