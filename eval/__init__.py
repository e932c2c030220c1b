"""Evaluation: `python -m eval --run runs/X`. Metrics are fed features, never images, so that one pass over the images serves them all."""
