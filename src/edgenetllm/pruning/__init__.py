"""Zeros, once: criteria, calibration, exact masks, the Lightning callback."""
