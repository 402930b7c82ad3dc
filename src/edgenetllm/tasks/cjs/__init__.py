"""Cluster job scheduling (CJS): which stage gets how many executors, decided whenever executors become free."""
