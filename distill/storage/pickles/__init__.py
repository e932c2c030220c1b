"""Pickles read by a machine that runs no code of theirs."""
