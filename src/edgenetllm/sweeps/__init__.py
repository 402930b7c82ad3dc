"""Many runs of one command: found again after an interruption, kept apart, planned before they start."""
