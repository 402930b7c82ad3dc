"""Encoder of the language model on ABR."""
