"""The tests of the agent share the small bundles of the tests of the edge."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
