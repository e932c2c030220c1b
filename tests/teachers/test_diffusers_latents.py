"""Latents and resolutions of diffusers teachers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import distill
from distill.config.errors import UserError
from distill.teachers.diffusers import Settings
from tests.helpers import latent_layouts
from tests.helpers.diffusers_inputs import PipelineFolders, transformer


@torch.no_grad()
def test_latents_are_scaled_and_shifted_as_the_pipeline_has_them(folders: PipelineFolders) -> None:
    teacher: Any = distill.load_teacher(folders["sd15"])
    images, vae = torch.randn(2, *teacher.pixel_shape), teacher.pipeline.pipe.vae
    assert (teacher.image_shape, teacher.pixel_shape) == ((4, 8, 8), (3, 16, 16))
    mean = vae.encode(images).latent_dist.mean
    torch.testing.assert_close(teacher.encode(images), mean * 0.18215)
    torch.testing.assert_close(teacher.decode(teacher.encode(images)), vae.decode(mean).sample)
    vae.register_to_config(shift_factor=0.3)
    torch.testing.assert_close(teacher.encode(images), (mean - 0.3) * 0.18215)
    torch.testing.assert_close(teacher.decode(teacher.encode(images)), vae.decode(mean).sample)
    vae.register_to_config(latents_mean=[0.1] * 4, latents_std=[2.0] * 4)
    torch.testing.assert_close(teacher.encode(images), (mean - 0.1) / 2 * 0.18215)


@torch.no_grad()
def test_latents_are_normalised_by_a_batch_norm_or_by_channels(folders: PipelineFolders) -> None:
    """FLUX.2's pipeline encodes images too, to packed latents; Qwen-Image's autoencoder is one of videos."""
    flux2 = transformer(folders, "flux2")
    images, pipe = torch.randn(2, *flux2.pixel_shape), flux2.pipeline.pipe
    theirs = pipe._encode_vae_image(images, generator=torch.Generator())
    torch.testing.assert_close(latent_layouts.given(pipe, flux2.encode(images)), theirs)
    qwen = transformer(folders, "qwen-image")
    vae = qwen.pipeline.pipe.vae
    mean, std = (
        torch.tensor(vae.config[name]).reshape(1, 4, 1, 1) for name in ("latents_mean", "latents_std")
    )
    plain = vae.encode(images[:, :, None]).latent_dist.mode()[:, :, 0]
    torch.testing.assert_close(qwen.encode(images), (plain - mean) / std)
    hunyuan = transformer(folders, "hunyuan-image")
    vae = hunyuan.pipeline.pipe.vae
    torch.testing.assert_close(hunyuan.encode(images), 0.75 * vae.encode(images).latent_dist.mode())


@torch.no_grad()
def test_latents_of_kandinsky_are_not_shifted(folders: PipelineFolders) -> None:
    """Its pipelines scale latents only; that its images are ours is tested with its predictions."""
    teacher = transformer(folders, "kandinsky5")
    images, vae = torch.randn(2, *teacher.pixel_shape), teacher.pipeline.pipe.vae
    assert (vae.config.scaling_factor, vae.config.shift_factor) == (0.36, 0.12)
    torch.testing.assert_close(teacher.encode(images), 0.36 * vae.encode(images).latent_dist.mode())
    torch.testing.assert_close(
        teacher.decode(teacher.encode(images)), vae.decode(vae.encode(images).latent_dist.mode()).sample
    )


@torch.no_grad()
def test_an_autoencoder_works_on_a_megapixel_at_once(
    folders: PipelineFolders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a megapixel is 600 pixels and an image 256, so that five images are two, two and one."""
    teacher: Any = distill.load_teacher(folders["sd15"])
    images = torch.randn(5, *teacher.pixel_shape)
    latents = teacher.encode(images)
    pictures = teacher.decode(latents)
    monkeypatch.setattr("distill.networks.diffusers.autoencoders.codec.MEGAPIXEL", 600)
    seen: list[int] = []
    for part in (teacher.pipeline.pipe.vae.encoder, teacher.pipeline.pipe.vae.decoder):
        part.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    torch.testing.assert_close(teacher.encode(images), latents)
    torch.testing.assert_close(teacher.decode(latents), pictures)
    assert seen == [2, 2, 1] * 2


def test_another_resolution(folders: PipelineFolders) -> None:
    teacher = Settings(path=str(folders["sdxl"]), resolution=32).load()
    assert (teacher.image_shape, teacher.pixel_shape) == ((4, 16, 16), (3, 32, 32))
    with pytest.raises(UserError, match="resolution: 30 is not divisible by 4"):
        Settings(path=str(folders["sdxl"]), resolution=30).load()
    with pytest.raises(
        UserError,
        match=r"resolution: is 32; expected 1024 or 16 or null: this pipeline makes no other square images",
    ):
        Settings(path=str(folders["kandinsky5"]), resolution=32).load()
