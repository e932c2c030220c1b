"""`python -m eval fid`: distances under named protocols."""
