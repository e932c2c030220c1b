"""Evaluation: `python -m eval --run runs/X`.

Metrics read features, not images, so that one pass over the images serves all of them.
"""
