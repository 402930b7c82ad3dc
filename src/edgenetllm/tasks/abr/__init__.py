"""Adaptive bitrate streaming: choose the quality of each video chunk while the network changes."""
