"""The gradients of the objectives: pure functions from `Scores` to a loss per sample, and their weightings."""
