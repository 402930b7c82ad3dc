"""Zeros, once: criteria, calibration, exact masks, allocation, recovery."""
