"""Metrics of features, one file each."""
