"""Engines, each a way to let a bundle decide: torch (reference), recompute (yardstick), onnx and compiled."""
