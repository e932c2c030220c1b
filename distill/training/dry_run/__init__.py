"""Predict the memory and the work of a run without running it."""
