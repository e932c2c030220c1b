"""Compilation, precision and memory format of networks, and constants on their device."""
