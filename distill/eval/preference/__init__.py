"""`python -m eval preference`: scores images by models of human preference, prompt by prompt."""
