"""Diffusion: noise levels, noise schedules, types of prediction, guidance and samplers."""
