"""`python -m eval preference`: what models of human preference think of a generator's images, prompt by prompt."""
