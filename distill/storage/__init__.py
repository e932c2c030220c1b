"""Files that are whole or absent, tensors on disk, and pickles that are read without running them."""
