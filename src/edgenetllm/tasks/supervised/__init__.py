"""Tasks that learn from recorded data: the environment over arrays, splits, networks and baselines that they share."""
