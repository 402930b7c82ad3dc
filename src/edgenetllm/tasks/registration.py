"""The simulators in Gymnasium's registry: importing this module registers `EdgeNetLLM/Abr-v0` and `EdgeNetLLM/Cjs-v0`.

    gymnasium.make("edgenetllm.tasks.registration:EdgeNetLLM/Abr-v0")

in one line, or `gymnasium.make("EdgeNetLLM/Abr-v0")` after `import edgenetllm.tasks.registration` (or one of the two modules
`simulator.gym`). The options of `make` are those of each module's function `generated`.
"""

from __future__ import annotations

import gymnasium

MADE_BY = {
    "EdgeNetLLM/Abr-v0": "edgenetllm.tasks.abr.simulator.gym:generated",
    "EdgeNetLLM/Cjs-v0": "edgenetllm.tasks.cjs.simulator.gym:generated",
}

for name, entry_point in MADE_BY.items():
    gymnasium.register(id=name, entry_point=entry_point)
