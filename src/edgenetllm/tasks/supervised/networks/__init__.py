"""Encoder and head of forecasts, with torch and without."""
