"""Qwen-VL's preprocessing against transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.config.errors import UserError
from distill.data.images import from_bytes
from distill.rewards.pretrained.vision_language.patches import Patches, read_patches
from tests.helpers.tiny_reward_networks import floats, pixels
from tests.helpers.tiny_vision_language import to_images

PUBLISHED = {
    "Qwen2-VL": {"min_pixels": 3136, "max_pixels": 12845056},
    "Qwen3-VL": {
        "size": {"shortest_edge": 65536, "longest_edge": 16777216},
        "patch_size": 16,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    },
    "HPSv3": {"min_pixels": 200704, "max_pixels": 200704},
}
"""Settings of published image processors."""


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("size", [(40, 31), (448, 448), (500, 301)])
def test_patches_are_those_of_transformers(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    from transformers import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(**PUBLISHED[name])
    processor.save_pretrained(tmp_path)
    images = pixels(2, *size)
    expected = processor(images=to_images(images), return_tensors="pt")
    patches = read_patches(str(tmp_path), "here")
    with torch.no_grad():
        found = patches(from_bytes(images))
    assert [list(patches.grid(*size))] * 2 == expected["image_grid_thw"].tolist()
    assert patches.count_tokens(*size) == int(expected["image_grid_thw"][0].prod()) // 4
    torch.testing.assert_close(found.flatten(0, 1), expected["pixel_values"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("height", [28, 300, 448, 512, 768, 1024])
@pytest.mark.parametrize("width", [29, 448, 640, 1024, 1216, 1536])
def test_sizes_are_those_of_transformers(height: int, width: int) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    for least, most in ((3136, 12845056), (200704, 200704), (3136, 50176)):
        found = Patches(least, most).size(height, width)
        assert found == smart_resize(height, width, 28, least, most)


def test_square_images_are_read_at_448_by_hpsv3() -> None:
    """The quotient of 1024 and the shrinking is 16 exactly, not a little less."""
    assert Patches(200704, 200704).size(1024, 1024) == (448, 448)


def test_with_a_gradient_the_patches_differ_by_the_rounding_only() -> None:
    patches = Patches(3136, 3136)
    images = floats().float()
    found = patches(images.requires_grad_())
    rounded = patches(images.detach())
    assert found.requires_grad
    # Half a level of each of the two roundings, and of the reading of bytes.
    assert 0 < float((found - rounded).detach().abs().max()) < 2.2 / 255 / 0.26


def test_an_elongated_image_is_refused() -> None:
    with pytest.raises(UserError, match=r"^rewards: an image of 201x1; expected edges of a ratio up to 200$"):
        Patches(3136, 3136).size(1, 201)


def test_another_image_processor_is_refused(tmp_path: Path) -> None:
    from transformers import CLIPImageProcessorPil

    CLIPImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(
        UserError,
        match=r"^here: the image processor CLIPImageProcessor\w* of .* expected one of Qwen2VLImage",
    ):
        read_patches(str(tmp_path), "here")
