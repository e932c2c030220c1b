"""`python -m eval`: the short report of a run."""
