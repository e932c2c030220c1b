"""Latent networks of EDM2: units of the latents, training on images, and a student that makes images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import distill
from distill.config.errors import UserError
from distill.data.images import from_bytes, to_bytes
from distill.diffusion.sampling import sample_generator, seeded_noise
from distill.networks.edm.autoencoder import StabilityAutoencoder
from distill.teachers.edm2 import Settings
from distill.types import Condition
from tests.helpers import tiny_pipelines
from tests.helpers.runs import read_lines, train_in_processes, train_run, write_run

EDM2 = Path(__file__).parents[1] / "oracles" / "edm2_tiny.pkl"
LATENTS = {
    0: (-0.6966427, -0.3517316, -0.0161725, 0.3277439),
    51: (-0.4568345, -0.1352814, 0.2533693, 0.6326220),
    255: (0.5023981, 0.7305195, 1.3315364, 1.8521341),
}
"""EDM2's latents of even images of these bytes, for an autoencoder whose latents are ten times the pixel.

By hand, from the published `StabilityVAEEncoder`: it gives the autoencoder byte/255, and makes (10 byte/255 -
mean) 0.5/deviation of its latents, with the means 5.81, 3.25, 0.12, -2.15 and the deviations 4.17, 4.62,
3.71, 3.28. In the first channel byte 51 is (2 - 5.81)/8.34 = -0.4568345.
"""


class TenTimes(torch.nn.Module):
    """Stands in for the autoencoder.

    Latents are ten times the first channel, averaged over 8x8 pixels; pixels are a tenth of the first latent.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.given: list[torch.Tensor] = []

    def encode(self, pixels: torch.Tensor) -> SimpleNamespace:
        self.given.append(pixels)
        latents = 10 * torch.nn.functional.avg_pool2d(pixels[:, :1], 8).repeat(1, 4, 1, 1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        assert latents.dtype == self.dtype
        assert not return_dict
        return (latents[:, :1].repeat_interleave(8, 2).repeat_interleave(8, 3).repeat(1, 3, 1, 1) / 10,)


def with_stand_in(vae: TenTimes) -> StabilityAutoencoder:
    autoencoder = StabilityAutoencoder("nowhere")
    autoencoder.use(vae)
    return autoencoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    sizes = {"block_out_channels": (4,) * 4, "norm_num_groups": 4}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    AutoencoderKL(**blocks, **sizes).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


@pytest.mark.parametrize("byte", LATENTS)
def test_an_image_becomes_the_latents_that_edm2_was_trained_on(byte: int) -> None:
    vae = TenTimes()
    image = from_bytes(torch.full((1, 3, 16, 24), byte, dtype=torch.uint8))
    latents = with_stand_in(vae).encode(image)
    torch.testing.assert_close(vae.given[0], torch.full((1, 3, 16, 24), byte / 255), rtol=0, atol=1e-6)
    assert latents.shape == (1, 4, 2, 3)
    torch.testing.assert_close(latents[0, :, 1, 2], torch.tensor(LATENTS[byte]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("byte", LATENTS)
def test_latents_become_the_bytes_that_edm2_shows(byte: int) -> None:
    latents = torch.tensor(LATENTS[byte])[None, :, None, None].expand(1, 4, 2, 3)
    shown = to_bytes(with_stand_in(TenTimes()).decode(latents))
    assert torch.equal(shown, torch.full((1, 3, 16, 24), byte, dtype=torch.uint8))


def test_pixels_outside_the_range_are_shown_as_black_and_white() -> None:
    """The autoencoder's output is -0.1 and 1.3: latents (-1 - 5.81)/8.34 and (13 - 5.81)/8.34."""
    latents = torch.tensor([-0.8165468, 0.8621103])[:, None, None, None].expand(2, 4, 1, 1)
    decoded = with_stand_in(TenTimes()).decode(latents)
    torch.testing.assert_close(decoded[:, 0, 0, 0], torch.tensor([-1.2, 1.6]), rtol=0, atol=1e-5)
    assert to_bytes(decoded)[:, 0, 0, 0].tolist() == [0, 255]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_autoencoder_works_in_its_own_type(dtype: torch.dtype) -> None:
    """Latents of byte 51 in any type, with no error but their own rounding."""
    autoencoder = with_stand_in(TenTimes())
    latents = torch.tensor(LATENTS[51], dtype=dtype)[None, :, None, None]
    decoded = autoencoder.decode(latents)
    assert decoded.dtype == torch.promote_types(dtype, torch.float32)
    expected = 0.2 * (latents[0, 0, 0, 0].double() * 8.34 + 5.81) - 1
    assert (decoded.double() - expected).abs().max() < 1e-6
    assert autoencoder.encode(torch.zeros(1, 3, 8, 8, dtype=dtype)).dtype == dtype


@pytest.fixture
def file(folder: Path, tmp_path: Path) -> Path:
    """Write a run of a latent network on images."""
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(5))
    return write_run(
        tmp_path,
        data={"name": "array", "path": str(tmp_path / "data.npz")},
        teacher={"name": "edm2", "path": str(EDM2), "autoencoder": str(folder)},
        objective={"name": "distribution_matching", "divergence": "reverse_kl"},
        discriminator={"reads": "teacher", "depths": ["bottleneck"], "width": 8},
        terms=[{"name": "gan", "weight": 0.1}],
        checkpoint_every=2,
        monitor_every=2,
        monitor_images=2,
    )


@pytest.mark.slow
def test_processes_share_the_autoencoder(file: Path, tmp_path: Path) -> None:
    """They encode images for the discriminator, and decode samples to measure them."""
    sharding = ("--sharding.strategy=full", "--sharding.min_component_parameters=1")
    for name, overrides, processes in (("alone", (), 1), ("sharded", sharding, 2)):
        done = train_in_processes(file, f"--run_dir={tmp_path / name}", *overrides, processes=processes)
        assert done.returncode == 0, done.stderr
    found, expected = (read_lines(tmp_path / name)[-1] for name in ("sharded", "alone"))
    for name in ("loss/discriminator", "loss/gan", "monitor/fd_effnet"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4)


def test_a_student_of_latents_learns_from_images_and_makes_images(folder: Path, file: Path) -> None:
    student = distill.load_generator(train_run(file))
    assert (student.image_shape, student.pixel_shape) == ((4, 8, 8), (3, 64, 64))
    made = sample_generator(student, [0], Condition(torch.tensor([1])), 1)
    z = seeded_noise([0], student.image_shape)
    with torch.no_grad():
        latents = student(z, Condition(torch.tensor([1])))
        torch.testing.assert_close(made, StabilityAutoencoder(str(folder)).decode(latents).clamp(-1, 1))


def test_on_the_meta_device_it_is_the_published_one() -> None:
    meta = Settings(path=EDM2).meta()
    assert meta.pixel_shape == (3, 64, 64)
    autoencoder = meta.frozen_components()["autoencoder"]
    assert meta.frozen_components()["autoencoder"] is autoencoder  # counted once, and sharded for good
    assert not any(parameter.requires_grad for parameter in autoencoder.parameters())
    assert sum(parameter.numel() for parameter in autoencoder.parameters()) == 83_653_863
    assert meta.decode(torch.zeros(1, 4, 8, 8, device="meta")).shape == (1, 3, 64, 64)


def test_a_source_that_is_no_such_autoencoder_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^teacher.autoencoder: .*nowhere cannot be opened as an AutoencoderKL"
    ):
        StabilityAutoencoder(str(tmp_path / "nowhere")).decode(torch.zeros(1, 4, 8, 8))
    tiny_pipelines.autoencoder().save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match=r"small has other latents; expected 4 channels for 8x8 pixels$"):
        StabilityAutoencoder(str(tmp_path / "small")).decode(torch.zeros(1, 4, 8, 8))


def test_what_was_described_without_weights_is_opened_on_its_device(folder: Path) -> None:
    described, opened = (StabilityAutoencoder(str(folder)) for _ in range(2))
    described.to(torch.device("meta"))
    assert described.components()["autoencoder"].device.type == "meta"
    sizes = [
        {name: weight.shape for name, weight in autoencoder.components()["autoencoder"].state_dict().items()}
        for autoencoder in (described, opened)
    ]
    assert sizes[0] == sizes[1]
    described.to(torch.device("cpu"))
    latents = torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(described.decode(latents), opened.decode(latents))
