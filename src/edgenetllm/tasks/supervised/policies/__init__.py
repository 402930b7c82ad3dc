"""Baselines of forecasts: rules, and a small network that learns."""
