"""Noise levels, schedules, guidance and samplers: how a denoiser is used."""
