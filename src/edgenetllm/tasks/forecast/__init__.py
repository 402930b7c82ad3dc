"""Forecasting of any recorded series in CSV files."""
