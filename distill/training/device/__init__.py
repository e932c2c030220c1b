"""The device of a run: its precision, its kernels and its memory."""
