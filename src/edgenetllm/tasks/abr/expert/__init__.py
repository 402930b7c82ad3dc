"""Policies that the simulator improves before the language model learns from them."""
