"""Sana."""

from __future__ import annotations

from typing import Any

from distill.networks.diffusers.families.depths import blocks
from distill.networks.diffusers.families.family import Family
from distill.networks.diffusers.families.text import MASKED, masked_inputs


def time_factor(config: Any) -> float:
    """Return the factor that the network's configuration has."""
    factor: float = config.timestep_scale
    return factor


FAMILIES = {
    "SanaTransformer2DModel": Family(blocks, inputs=masked_inputs, encoded=MASKED, time_factor=time_factor)
}
