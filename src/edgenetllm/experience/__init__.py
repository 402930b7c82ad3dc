"""Trajectories: play episodes, keep them as a pool, batch them for Lightning."""
