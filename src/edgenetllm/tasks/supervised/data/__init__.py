"""Recorded series: questions that are asked of them, and splits without leaks."""
