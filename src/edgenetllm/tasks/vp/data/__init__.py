"""Recorded head orientations: public data sets, and generated ones."""
