"""Families of denoisers in diffusers: how the networks of a class are called, where their features are."""

from __future__ import annotations

from distill.networks.diffusers.families import (
    cogview,
    dit,
    flux,
    flux2,
    flux_relatives,
    hunyuan_image,
    kandinsky,
    lumina,
    pixart,
    qwen_image,
    stable_diffusion_3,
    unet,
)
from distill.networks.diffusers.families.family import Depths, Family, PipelineFacts, Tensors

__all__ = ["FAMILIES", "Depths", "Family", "PipelineFacts", "Tensors"]

FAMILIES: dict[str, Family] = {
    **unet.FAMILIES,
    **dit.FAMILIES,
    **pixart.FAMILIES,
    **stable_diffusion_3.FAMILIES,
    **flux.FAMILIES,
    **flux2.FAMILIES,
    **flux_relatives.FAMILIES,
    **qwen_image.FAMILIES,
    **hunyuan_image.FAMILIES,
    **lumina.FAMILIES,
    **cogview.FAMILIES,
    **kandinsky.FAMILIES,
}
"""The families by the names of their classes in diffusers."""
