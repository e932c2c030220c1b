"""Latents of an image are those that diffusers' own image-to-image pipelines make of its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import distill
from distill.data.images import from_bytes
from tests.helpers import tiny_pipelines


@pytest.mark.parametrize("shift", [None, 0.3])
@torch.no_grad()
def test_an_image_becomes_the_latents_that_the_image_to_image_pipeline_begins_with(
    shift: float | None, tmp_path: Path
) -> None:
    from diffusers import StableDiffusion3Img2ImgPipeline, StableDiffusionImg2ImgPipeline

    folder = (
        tiny_pipelines.stable_diffusion(tmp_path / "sd15")
        if shift is None
        else tiny_pipelines.stable_diffusion_3(tmp_path / "sd3")
    )
    kind: Any = StableDiffusionImg2ImgPipeline if shift is None else StableDiffusion3Img2ImgPipeline
    teacher: Any = distill.load_teacher(folder)
    theirs = kind.from_pretrained(folder)
    for pipe in (teacher.pipeline.pipe, theirs):
        pipe.vae.register_to_config(shift_factor=shift)
    # Without noise, so that the latents are those of the image.
    theirs.scheduler.add_noise = theirs.scheduler.scale_noise = lambda latents, *_: latents
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    prepared = theirs.image_processor.preprocess(Image.fromarray(pixels))
    ours = from_bytes(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    torch.testing.assert_close(ours, prepared, rtol=0, atol=1e-6)
    # A posterior without variance, whose sample is its mean.
    theirs.vae.quant_conv.weight.data[len(theirs.vae.quant_conv.weight) // 2 :].zero_()
    theirs.vae.quant_conv.bias.data[len(theirs.vae.quant_conv.bias) // 2 :].fill_(-1e4)
    settings: dict[str, Any] = {
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "generator": torch.Generator().manual_seed(0),
    }
    latents = theirs.prepare_latents(prepared, torch.tensor([1]), 1, 1, **settings)
    torch.testing.assert_close(teacher.encode(ours), latents, rtol=1e-5, atol=1e-5)
