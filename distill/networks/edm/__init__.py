"""NVIDIA's EDM and EDM2 networks and their published files."""
