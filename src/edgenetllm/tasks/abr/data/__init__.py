"""Bandwidth traces, videos and bitrate ladders: where they come from, how they are read, checked and split."""
