"""Models whose scores are known exactly, for experiments that check the mathematics."""
