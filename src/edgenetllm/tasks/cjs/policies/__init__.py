"""Baselines, scoring rules, Decima and the lower bound."""
