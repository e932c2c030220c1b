"""Diversity of the images of one prompt or of one label."""
