"""Turntables, pictures, meshes and descriptions of trained scenes."""
