"""Preprocessing against Pillow and the image processors of transformers.

It is equal in bytes, and as near as rounding allows where it is differentiable.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from PIL import Image
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import from_bytes, to_bytes
from distill.rewards.pretrained.preprocessing import (
    Filter,
    Preprocessing,
    pillow_weights,
    read_preprocessing,
    resize_as_pillow,
    resize_as_torch,
)

CODES: dict[Filter, int] = {"bilinear": 2, "bicubic": 3}
SIZES = [
    ((8, 8), (224, 224)),
    ((301, 224), (50, 224)),
    ((333, 517), (224, 347)),
    ((64, 100), (97, 31)),
    ((7, 9), (5, 3)),
    ((3, 2), (1, 1)),
    ((90, 30), (20, 25)),
]


def image(height: int, width: int) -> Tensor:
    """Make bytes (3, height, width): noise, and below it hard edges, at which cubic filters overshoot."""
    random = torch.Generator().manual_seed(height + width)
    noise = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=random)
    noise[:, height // 2 :] = 255 * (noise[:, height // 2 :] > 128).to(torch.uint8)
    return noise


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("before", "after"), SIZES)
def test_resizing_is_pillows(before: tuple[int, int], after: tuple[int, int], kind: Filter) -> None:
    """Resizing with rounding is Pillow's, bit for bit.

    Without rounding it differs by what half a level of each of the two roundings explains, and is torch's own
    filter.
    """
    pixels = image(*before)
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    # Pillow 13 would begin with the columns in the last of the sizes.
    theirs = np.asarray(
        picture.resize((after[1], before[0]), CODES[kind]).resize(after[::-1], CODES[kind])
    ).transpose(2, 0, 1)
    if before != (90, 30):
        assert np.array_equal(theirs, np.asarray(picture.resize(after[::-1], CODES[kind])).transpose(2, 0, 1))
    levels = pixels.double()
    assert np.array_equal(resize_as_pillow(levels, after, kind, exact=True).numpy(), theirs)
    smooth = resize_as_pillow(levels, after, kind, exact=False)
    explained = 0.5 + 0.5 * float(pillow_weights(before[0], after[0], kind).abs().sum(1).max())
    assert explained < 1.13
    assert np.abs(smooth.numpy() - theirs).max() < explained + 1e-4  # Pillow's weights are rounded too
    rows = F.interpolate(levels[None], (before[0], after[1]), mode=kind, antialias=True).clamp(0, 255)
    torch.testing.assert_close(
        smooth, F.interpolate(rows, after, mode=kind, antialias=True).clamp(0, 255)[0], rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("before", "after"), [*SIZES, ((5, 3), (24, 14)), ((1, 7), (4, 24)), ((200, 150), (24, 18))]
)
def test_resizing_of_tensors_is_torchs(
    before: tuple[int, int], after: tuple[int, int], kind: Filter, antialias: bool
) -> None:
    """Value and gradient are torch's, neither rounded nor clipped."""
    levels = image(*before).double()[None].requires_grad_()
    theirs = F.interpolate(levels, after, mode=kind, align_corners=False, antialias=antialias)
    ours = resize_as_torch(levels, after, kind, antialias)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    direction = torch.randn(theirs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected, found = (torch.autograd.grad((value * direction).sum(), levels)[0] for value in (theirs, ours))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(40, 61), (61, 55), (24, 24), (9, 20)])
def test_a_letterbox_of_tensors_is_torchs(size: tuple[int, int], antialias: bool) -> None:
    """hpsv2's preprocessing resizes a tensor in [0, 1] by its longer edge.

    Zeros surround it before it is normalised; at hard edges it overshoots.
    """
    squares = (
        torch.randint(0, 2, (3, 9, 9), generator=torch.Generator().manual_seed(0)).mul(255).to(torch.uint8)
    )
    pixels = squares.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, : size[0], : size[1]]
    scale = 24 / max(size)
    height, width = (round(length * scale) for length in size)
    inside = F.interpolate(
        pixels[None].double() / 255, (height, width), mode="bicubic", align_corners=False, antialias=antialias
    )
    expected = torch.zeros(1, 3, 24, 24, dtype=torch.float64)
    top, left = (24 - height) // 2, (24 - width) // 2
    expected[:, :, top : top + height, left : left + width] = inside
    preprocessing = Preprocessing(
        (24, 24), 24, edge="longer", resampler="torch_antialiased" if antialias else "torch"
    )
    mean, deviation = (
        torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.deviation)
    )
    images = from_bytes(pixels[None])
    for found in (preprocessing(images), preprocessing(images.requires_grad_()).detach()):
        torch.testing.assert_close(found.double(), (expected - mean) / deviation, rtol=0, atol=2e-6)
    if size != (24, 24):
        assert expected.max() > 1.05
        by_pillow = Preprocessing((24, 24), 24, edge="longer")(images.detach())
        levels = float(((found - by_pillow).abs() * deviation * 255).max())
        assert levels > (128 if not antialias and max(size) > 48 else 20)


PROCESSORS: dict[str, dict[str, Any]] = {
    "CLIPImageProcessorPil": {"size": {"shortest_edge": 30}, "crop_size": 30},
    "BitImageProcessorPil": {"size": {"shortest_edge": 36}, "crop_size": {"height": 30, "width": 28}},
    "ViTImageProcessorPil": {"size": {"height": 30, "width": 28}},
    "DeiTImageProcessorPil": {"size": {"height": 36, "width": 36}, "crop_size": {"height": 30, "width": 30}},
    "ConvNextImageProcessorPil": {"size": {"shortest_edge": 30}, "crop_pct": 0.875},
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(40, 61), (61, 55), (20, 20)])
def test_preprocessing_is_that_of_the_image_processors(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    processor = getattr(transformers, name)(**PROCESSORS[name])
    processor.save_pretrained(tmp_path)
    pixels = image(*size)
    theirs = processor(images=Image.fromarray(pixels.permute(1, 2, 0).numpy()), return_tensors="pt")[
        "pixel_values"
    ]
    preprocessing, images = read_preprocessing(str(tmp_path), "here"), from_bytes(pixels[None])
    ours = preprocessing(images)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)
    assert ours.dtype == torch.float32
    wanted = preprocessing(images.requires_grad_())
    level = (wanted.detach() - theirs).abs().amax((0, 2, 3)) * torch.tensor(preprocessing.deviation) * 255
    assert 0.3 < level.max() < 1.13


def test_a_large_convnext_warps_its_images(tmp_path: Path) -> None:
    processor = transformers.ConvNextImageProcessorPil(size={"shortest_edge": 384})
    processor.save_pretrained(tmp_path)
    pixels = image(40, 61)
    theirs = processor(images=Image.fromarray(pixels.permute(1, 2, 0).numpy()), return_tensors="pt")[
        "pixel_values"
    ]
    torch.testing.assert_close(
        read_preprocessing(str(tmp_path), "here")(from_bytes(pixels[None])), theirs, rtol=0, atol=2e-6
    )


@pytest.mark.parametrize(
    ("description", "complaint"),
    [
        (
            '{"image_processor_type": "EfficientNetImageProcessor"}',
            "image processor EfficientNetImageProcessor of {folder} is unknown",
        ),
        (
            '{"image_processor_type": "ViTImageProcessor", "resample": 1}',
            "expected to resize by Pillow's bicubic or bilinear filter",
        ),
        ('{"image_processor_type": "ViTImageProcessor", "rescale_factor": 1.0}', "and rescale by 1/255"),
        ('{"image_processor_type": "CLIPImageProcessor", "do_center_crop": false}', "expected to resize"),
    ],
)
def test_other_image_processors_are_refused(description: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(description)
    with pytest.raises(UserError, match="here: ") as error:
        read_preprocessing(str(tmp_path), "here")
    assert complaint.format(folder=tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_images_are_read_as_a_file_would_hold_them() -> None:
    """Without a gradient a value becomes the level that a file would hold."""
    preprocessing = Preprocessing((30, 30), 30)
    images = 1.5 * torch.randn(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(preprocessing(images), preprocessing(from_bytes(to_bytes(images))))
    with torch.no_grad():
        assert torch.equal(preprocessing(images.requires_grad_()), preprocessing(images.detach()))
    assert preprocessing(torch.full((1, 3, 40, 50), torch.nan)).isnan().all()


def test_overshoot_gains_nothing() -> None:
    """Beyond [-1, 1] the value is constant and the gradient zero; within it is not."""
    preprocessing = Preprocessing((8, 8), 8)
    images = torch.linspace(-1.5, 1.5, 3 * 64).reshape(1, 3, 8, 8).requires_grad_()
    prepared = preprocessing(images)
    assert torch.equal(prepared, preprocessing(images.detach().clamp(-1, 1).requires_grad_()))
    (gradient,) = torch.autograd.grad(prepared.sum(), images)
    inside = (images.abs() <= 1).float()
    torch.testing.assert_close(gradient, inside / 2 / torch.tensor(preprocessing.deviation)[:, None, None])


def test_a_score_before_a_gradient() -> None:
    """A cached value is no tensor of `inference_mode`."""
    preprocessing, images = Preprocessing((9, 9), 9), torch.zeros(1, 3, 23, 23)
    with torch.inference_mode():
        preprocessing(images)
    assert torch.autograd.grad(preprocessing(images.requires_grad_()).sum(), images)[0].abs().sum() > 0


def test_grey_images_and_other_precisions() -> None:
    preprocessing, pixels = Preprocessing((8, 8), 8), image(20, 30)[:1, :, :]
    grey = from_bytes(pixels[None])
    assert torch.equal(preprocessing(grey), preprocessing(grey.expand(-1, 3, -1, -1)))
    assert preprocessing(grey.bfloat16()).dtype == torch.float32
    assert preprocessing(grey.double().requires_grad_()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        inside = preprocessing(grey.clone().requires_grad_())
    assert torch.equal(inside, preprocessing(grey.clone().requires_grad_()))
    with pytest.raises(UserError, match="rewards: images of 4 channels; expected 1 or 3"):
        preprocessing(torch.zeros(1, 4, 8, 8))
