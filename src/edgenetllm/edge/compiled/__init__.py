"""Decoders that run as one compiled call per step: int8 weights, dense or sparse, in one arena, without torch."""
