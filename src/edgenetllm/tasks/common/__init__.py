"""Building blocks for simple tasks: heuristics as policies, an encoder of numbers, heads for choices and for real numbers."""
