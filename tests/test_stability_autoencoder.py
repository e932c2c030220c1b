"""EDM2's networks of latents, with an autoencoder of the published one's class: units, training on images, a student that makes images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

import distill
from distill.config import read_config
from distill.errors import UserError
from distill.launch import launch
from distill.models.stability_autoencoder import StabilityAutoencoder
from distill.sampling import sample_generator, seeded_noise
from distill.teachers.edm2 import Settings
from distill.types import Condition
from tests import tiny_pipelines

EDM2 = Path(__file__).parent / "oracles" / "edm2_tiny.pkl"
SCALE, BIAS = 0.5 / np.array([4.17, 4.62, 3.71, 3.28]), -np.array([5.81, 3.25, 0.12, -2.15]) * 0.5 / np.array([4.17, 4.62, 3.71, 3.28])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    sizes = {"block_out_channels": (4,) * 4, "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    AutoencoderKL(**blocks, **sizes).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


@torch.no_grad()
def test_latents_are_in_the_units_of_the_published_encoder(folder: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(folder)
    ours, images = StabilityAutoencoder(str(folder)), torch.rand(2, 3, 16, 24) * 2 - 1
    scale, bias = (torch.from_numpy(value).float()[:, None, None] for value in (SCALE, BIAS))
    latents = vae.encode(images).latent_dist.mode() * scale + bias
    torch.testing.assert_close(ours.encode(images), latents)
    torch.testing.assert_close(ours.decode(latents), vae.decode((latents - bias) / scale).sample)


def test_a_student_of_latents_learns_from_images_and_makes_images(folder: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(5))
    config = {
        "task": "distill",
        "run_dir": str(tmp_path / "run"),
        "data": {"name": "array", "path": str(tmp_path / "data.npz")},
        "teacher": {"name": "edm2", "path": str(EDM2), "autoencoder": str(folder)},
        "objective": {"name": "distribution_matching", "divergence": "reverse_kl"},
        "discriminator": {"reads": "teacher", "depths": ["bottleneck"], "width": 8},
        "terms": [{"name": "gan", "weight": 0.1}],
        **{"steps": 2, "batch_size": 2, "log_every": 1, "checkpoint_every": 2, "monitor_every": 2, "monitor_images": 2, "device": "cpu"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    AcceleratorState._reset_state(reset_partial_state=True)
    launch(read_config(tmp_path / "config.yaml"))
    student = distill.load_generator(tmp_path / "run")
    assert (student.image_shape, student.pixel_shape) == ((4, 8, 8), (3, 64, 64))
    made = sample_generator(student, [0], Condition(torch.tensor([1])), 1)
    z = seeded_noise([0], student.image_shape)
    with torch.no_grad():
        latents = student(z, Condition(torch.tensor([1])))
        torch.testing.assert_close(made, StabilityAutoencoder(str(folder)).decode(latents))


def test_without_weights_it_is_the_published_one_and_without_a_source_there_is_one_line(tmp_path: Path) -> None:
    outline = Settings(path=EDM2).outline()
    assert outline.pixel_shape == (3, 64, 64)
    assert sum(parameter.numel() for parameter in outline.other_parts()["autoencoder"].parameters()) == 83_653_863
    assert outline.decode(torch.zeros(1, 4, 8, 8, device="meta")).shape == (1, 3, 64, 64)
    with pytest.raises(UserError, match=r"^teacher.autoencoder: .*nowhere cannot be opened as an AutoencoderKL"):
        StabilityAutoencoder(str(tmp_path / "nowhere")).decode(torch.zeros(1, 4, 8, 8))
    tiny_pipelines.autoencoder().save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match=r"small has other latents; expected 4 channels for 8x8 pixels$"):
        StabilityAutoencoder(str(tmp_path / "small")).decode(torch.zeros(1, 4, 8, 8))
