"""Checkpoints: complete or absent folders of safetensors and JSON, with a manifest of hashes."""

from distill.training.checkpoints.loading import load_checkpoint
from distill.training.checkpoints.saving import save_checkpoint

__all__ = ["load_checkpoint", "save_checkpoint"]
