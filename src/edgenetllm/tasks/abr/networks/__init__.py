"""Encoder and head of the language model on ABR."""
