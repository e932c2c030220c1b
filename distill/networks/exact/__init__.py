"""Distributions whose scores are known exactly: the laboratory."""
