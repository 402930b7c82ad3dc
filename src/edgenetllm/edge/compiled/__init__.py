"""Matrix products and the decoder step as compiled code, without torch."""
