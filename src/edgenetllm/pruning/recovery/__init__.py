"""Recovery after pruning that keeps the mask: one file per `recovery=` choice, and `recover.py`, which checks it."""
