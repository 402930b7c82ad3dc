"""Many runs of one command: planned, found again after an interruption, kept apart, on a laptop or a cluster."""
