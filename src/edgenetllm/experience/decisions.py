"""Names of the columns of logged decisions; docs/logs.md describes the form. Nothing here needs torch.

A record is one decision: what was observed, what was done, and the reward that came of it. A value that is not known is null.
"""

from __future__ import annotations

OBSERVATION = "observation."  # and the name of an input of the task
EPISODE = ("policy", "session", "episode")  # those that are there say together which episode a decision belongs to
NEEDED = ("task", "step", "action", "reward")
