"""Baselines, planners, Pensieve and the offline optimum."""
