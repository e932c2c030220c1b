"""Evaluation: `python -m eval --run runs/X`.

Metrics are given features, never images, so that one pass over the images serves all of them.
"""
