"""The environments of recorded data."""
