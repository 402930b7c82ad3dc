"""Encoder and head of the language model on CJS, and what its supervised targets are."""
