"""The tests of placements share the small bundles of the tests of the agent."""

from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "edge"), str(TESTS / "edge" / "agent")]
