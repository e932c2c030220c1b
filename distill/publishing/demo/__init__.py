"""A page on this machine that makes images with a student, beside its teacher: `python -m distill demo`."""
