"""Result files, and their tables on a terminal."""
