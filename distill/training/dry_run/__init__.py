"""The memory and the work of a run, without running it."""
