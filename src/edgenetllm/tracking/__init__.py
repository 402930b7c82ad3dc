"""Experiment loggers, the log of a run, and lineage in W&B."""
