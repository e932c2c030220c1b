"""The report of a run, a page for people and a few numbers for programs."""
