"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from distill.networks.diffusers.families.depths import blocks
from distill.networks.diffusers.families.family import Family
from distill.networks.diffusers.families.text import PAIRS, pooled_inputs

FAMILIES = {"SD3Transformer2DModel": Family(blocks, inputs=pooled_inputs, encoded=PAIRS)}
