"""One-shot pruning: criteria, calibration, exact masks, allocation, recovery."""
