"""Rules that evolution improves before the language model learns from them."""
