"""`load_generator` gives what the README says: images in [-1, 1], without a graph."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import distill
from distill.data.images import to_bytes
from distill.diffusion.schedules import EDM
from distill.networks.exact.affine import Affine
from distill.networks.few_step_generator import FewStepGenerator, ImageGenerator
from distill.networks.folder import save_model
from distill.types import Condition, Denoiser
from tests.helpers.exported import exported, own_student
from tests.helpers.random_teacher import save_random_teacher

README = Path(__file__).parents[2] / "README.md"


class Halved:
    """A codec whose images are half its latents."""

    def pixel_shape(self, latent_shape: tuple[int, ...]) -> tuple[int, ...]:
        return latent_shape

    def encode(self, images: Tensor) -> Tensor:
        return 2 * images

    def decode(self, latents: Tensor) -> Tensor:
        return latents / 2

    def components(self) -> dict[str, nn.Module]:
        return {}

    def components_to_bundle(self) -> dict[str, nn.Module]:
        return {}


class Scale(Denoiser):
    """A denoiser that predicts `factor` x_t, so that a generator's output is known."""

    def __init__(self, factor: float, image_shape: tuple[int, ...], latent: bool = False) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.schedule, self.image_shape, self.label_count = EDM(), image_shape, 0
        self.codec = Halved() if latent else None

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.factor * x_t


def test_the_readme_s_snippet_makes_images_in_range_and_without_a_graph(tmp_path: Path) -> None:
    (code,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
        if "load_generator" in code
    ]
    teacher = save_random_teacher(tmp_path / "teacher")
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(3)
    run = exported(FewStepGenerator(teacher, 2.5), tmp_path / "run")
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(code.replace("runs/mine", str(run)), names)
    images = names["images"]
    assert isinstance(images, Tensor)
    assert images.shape == (4, *teacher.image_shape)
    assert not images.requires_grad
    assert (images.amin().item(), images.amax().item()) == (-1.0, 1.0)  # this network overshoots both


@pytest.mark.parametrize("kind", ["unet", "edm", "edm2"])
def test_a_call_alone_takes_no_gradient(kind: str, tmp_path: Path) -> None:
    generator = distill.load_generator(exported(own_student(kind, tmp_path / "parts"), tmp_path / "export"))
    z, cond = torch.randn(2, *generator.noise_shape), Condition(torch.tensor([0, 1]))
    made = generator(z, cond)
    images = generator.decode(made)
    assert not made.requires_grad
    assert not images.requires_grad
    assert images.shape == (2, *generator.pixel_shape)
    assert images.abs().max() <= 1
    if kind != "edm2":
        assert torch.equal(images, made)


def test_images_are_clamped_and_what_is_not_finite_stays_so() -> None:
    generator = ImageGenerator(Scale(1.0, (1, 1, 4)), 1.0)
    z = torch.tensor([-1.11, 0.5, 1.26, torch.inf]).reshape(1, 1, 1, 4)
    assert generator(z, Condition()).flatten().tolist() == [-1.0, 0.5, 1.0, torch.inf]
    assert generator(torch.full_like(z, torch.nan), Condition()).isnan().all()


def test_the_bytes_of_an_image_are_those_that_it_had_without_the_clamp() -> None:
    """Measured numbers do not change: bytes are measured, whose levels 0 and 255 are at -1 and 1."""
    values = torch.linspace(-3, 3, 24_001).reshape(1, 1, 1, -1)
    levels = np.floor(np.clip(values.numpy().astype(np.float32) * np.float32(127.5) + 128, 0, 255)).astype(
        np.uint8
    )
    shown = to_bytes(ImageGenerator(Scale(1.0, (1, 1, 24_001)), 1.0)(values, Condition()))
    assert np.array_equal(shown.numpy(), levels)


def test_latents_and_vectors_are_not_clamped_and_images_of_latents_are() -> None:
    z = torch.tensor([-3.0, 1.0, 3.0])
    latent = ImageGenerator(Scale(1.0, (1, 1, 3), latent=True), 1.0)
    made = latent(z.reshape(1, 1, 1, 3), Condition())
    assert made.flatten().tolist() == [-3.0, 1.0, 3.0]
    assert latent.decode(made).flatten().tolist() == [-1.0, 0.5, 1.0]
    vectors = ImageGenerator(Scale(1.0, (3,)), 1.0)
    assert vectors.decode(vectors(z[None], Condition())).flatten().tolist() == [-3.0, 1.0, 3.0]


def test_the_image_between_two_steps_is_not_clamped() -> None:
    """D(x) = 2 x at sigma 2 makes 12 of 3; a second step on 12, without noise, makes 24, which is clamped."""
    seen: list[float] = []
    denoiser = Scale(2.0, (1, 1, 1))
    denoiser.register_forward_hook(lambda module, inputs, output: seen.append(output.item()))
    generator = ImageGenerator(denoiser, 2.0, 0.5)
    assert generator(torch.tensor([3.0, 0.0]).reshape(1, 2, 1, 1), Condition()).item() == 1.0
    assert seen == [12.0, 24.0]


def test_a_student_in_training_is_not_clamped_and_has_its_gradient() -> None:
    denoiser = Scale(1.0, (1, 1, 1))
    image = FewStepGenerator(denoiser, 1.0)(torch.full((1, 1, 1, 1), 1.5), Condition())
    image.sum().backward()
    assert (image.item(), denoiser.factor.grad.item()) == (1.5, 1.5)


def test_a_student_of_vectors_has_no_graph_either(tmp_path: Path) -> None:
    save_model(Affine(2), tmp_path)
    generator = distill.load_generator(tmp_path)
    made = generator(torch.tensor([[4.0, -5.0]]), Condition())
    assert made.tolist() == [[4.0, -5.0]]
    assert not made.requires_grad
