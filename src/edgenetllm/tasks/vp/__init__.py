"""Viewport prediction: where will the viewer of a 360-degree video look in the next seconds?"""
