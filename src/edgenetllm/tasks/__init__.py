"""Networking decision problems: one folder per task, all behind the protocols of `task.py`."""
