"""Scenes in three dimensions that are rendered as images, so that a scene's parameters can be a student."""
