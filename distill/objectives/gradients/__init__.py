"""The gradients: pure functions from `Scores` to a loss per sample, and their weightings."""
