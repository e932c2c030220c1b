"""`python -m eval report`: one page of several results, to look at models side by side."""
