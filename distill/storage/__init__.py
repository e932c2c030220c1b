"""Files written whole or not at all, tensors on disk, and pickles read without running their code."""
