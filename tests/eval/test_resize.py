"""Resizing against clean-fid and torch-fidelity where they are installed, and against formulas everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distill.config.errors import UserError
from distill.eval.features import features_of
from distill.eval.features.inception import load
from distill.eval.images.resize import pil_bicubic, resize, tensorflow_bilinear, torch_bicubic
from tests.helpers.fidelity_oracle import SIZES, noise_image, seeded_inception


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_clean_fid_and_torch_fidelity_resize_so(
    oracle: dict[str, np.ndarray], height: int, width: int
) -> None:
    image = noise_image(height, width)
    np.testing.assert_array_equal(pil_bicubic(image, 299).numpy(), oracle[f"clean {height} {width}"])
    np.testing.assert_allclose(
        tensorflow_bilinear(image, 299).numpy(), oracle[f"tensorflow {height} {width}"], rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tensorflow_bilinear_is_the_grid_of_nvidias_script(height: int, width: int) -> None:
    """`inception-2015-12-05.pt` samples the image at a grid shifted by half a pixel of each side."""
    image = noise_image(height, width)
    theta = torch.eye(2, 3, dtype=torch.float64)
    theta[0, 2], theta[1, 2] = 1 / width - 1 / 299, 1 / height - 1 / 299
    grid = F.affine_grid(theta[None], [1, 3, 299, 299], align_corners=False)
    expected = F.grid_sample(
        image[None].double(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    torch.testing.assert_close(
        tensorflow_bilinear(image, 299).double(), expected, rtol=0, atol=0.02
    )  # positions in single precision


def test_tensorflow_bilinear_by_hand() -> None:
    image = torch.tensor([[[0, 90, 30]]], dtype=torch.uint8).expand(1, 2, 3)
    assert tensorflow_bilinear(image, 2)[0, 0].tolist() == [
        0.0,
        60.0,
    ]  # at 0 and at 1.5, with no average over what lies between
    assert torch.equal(tensorflow_bilinear(noise_image(299, 299), 299), noise_image(299, 299).float())


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pillow_and_torch_have_the_same_bicubic_filter(height: int, width: int) -> None:
    image = noise_image(height, width)
    torch.testing.assert_close(
        pil_bicubic(image, 224), torch_bicubic(image, 224).clamp(0, 255), rtol=0, atol=1e-2
    )
    expected = F.interpolate(image[None].double(), (224, 224), mode="bicubic", antialias=True)[0]
    torch.testing.assert_close(torch_bicubic(image, 224).double(), expected, rtol=0, atol=1e-2)


def test_the_resizings_differ_by_grey_levels_and_none_leaves_the_bytes() -> None:
    image = noise_image(64, 64)
    assert (tensorflow_bilinear(image, 299) - pil_bicubic(image, 299)).abs().mean() > 5
    assert torch.equal(resize(None, image, 0), image.float())
    with pytest.raises(
        UserError, match=r"^'pil_bicbic' is not in eval/images/resize.py; did you mean 'pil_bicubic'\?$"
    ):
        resize("pil_bicbic", image, 8)


def test_inception_is_torch_fidelitys(oracle: dict[str, np.ndarray], tmp_path: Path) -> None:
    torch.save(seeded_inception().state_dict(), tmp_path / "weights.pth")
    images = torch.stack(
        [tensorflow_bilinear(image, 299) for image in (noise_image(64, 64), noise_image(64, 64).flip(2))]
    )
    found = features_of(load(str(tmp_path / "weights.pth")).eval(), images)
    np.testing.assert_allclose(
        found["features"].numpy(), oracle["features"], rtol=1e-4, atol=1e-5 * oracle["features"].max()
    )
    np.testing.assert_allclose(
        found["logits"].numpy(), oracle["logits"], rtol=1e-4, atol=1e-5 * np.abs(oracle["logits"]).max()
    )
