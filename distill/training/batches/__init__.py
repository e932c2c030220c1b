"""Batches: everything random about a step, as a pure function of seed, step and sample."""

from distill.training.batches.batch import Batch, Noise
from distill.training.batches.batches import Batches, check_split
from distill.training.batches.purposes import Purpose

__all__ = ["Batch", "Batches", "Noise", "Purpose", "check_split"]
