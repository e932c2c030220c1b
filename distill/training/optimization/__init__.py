"""Optimisers, the moving average of weights and the scale of the loss."""
