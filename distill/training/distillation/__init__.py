"""Distilling a teacher."""
