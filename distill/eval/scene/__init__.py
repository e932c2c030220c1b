"""`python -m eval scene`: compares renders of scenes with a prompt, each other and known scenes."""
