"""U-Nets: DDPM with or without classes, Stable Diffusion 1.x, 2.x and XL, Kolors."""

from __future__ import annotations

from typing import Any

from distill.diffusion.constants import constant
from distill.networks.diffusers.families.depths import encoder_levels
from distill.networks.diffusers.families.family import Family, PipelineFacts, Tensors
from distill.networks.diffusers.families.text import PAIRS


def unet_inputs(pipeline: PipelineFacts, text: Tensors) -> dict[str, Any]:
    """Return the arguments of a U-Net. Size and crop of SDXL and Kolors are those of whole images."""
    added = None
    if "pooled" in text:
        height, width = pipeline.pixel_shape[1:]
        ids = constant((height, width, 0, 0, height, width), text["pooled"])
        added = {"text_embeds": text["pooled"], "time_ids": ids.expand(len(text["pooled"]), -1)}
    return {"encoder_hidden_states": text["tokens"], "added_cond_kwargs": added}


FAMILIES = {
    "UNet2DModel": Family(encoder_levels, "unet", labels="num_class_embeds"),
    "UNet2DConditionModel": Family(encoder_levels, "unet", inputs=unet_inputs, encoded=PAIRS),
}
