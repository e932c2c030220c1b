"""Compilation, precision, memory format and second derivatives of networks."""
