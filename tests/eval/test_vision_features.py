"""Features of CLIP, ConvNeXt V2 and masked autoencoders against transformers' own classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.features import features_of, load_extractor
from distill.eval.images.resize import resize
from distill.eval.protocols import read_protocol
from tests.helpers import tiny_reward_networks
from tests.helpers.fidelity_oracle import noise_image


def images(size: int) -> Tensor:
    return 255 * torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_clip_is_transformers_embedding_of_the_prepared_picture(tmp_path: Path) -> None:
    """Preparation as in CMMD's code is, for squares, that of transformers' image processor."""
    from transformers import CLIPImageProcessorPil, CLIPModel

    folder = tiny_reward_networks.clip(tmp_path / "clip")
    extractor = load_extractor("clip", str(folder))
    picture = noise_image(60, 60)
    prepared = resize("square_pil_bicubic_bytes", picture, tiny_reward_networks.SIZE)
    found = features_of(extractor, prepared[None])["features"]
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    inputs = processor(Image.fromarray(picture.permute(1, 2, 0).numpy()), return_tensors="pt")
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(folder).eval().get_image_features(**inputs).pooler_output
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert found.norm(dim=1).item() == pytest.approx(1, rel=1e-6)


def test_a_network_of_another_size_than_the_protocols_is_refused(tmp_path: Path) -> None:
    folder = tiny_reward_networks.clip(tmp_path / "clip")
    extractor = load_extractor("clip", str(folder))
    with pytest.raises(
        UserError,
        match=r"^the feature network is of 24x24 pixels; expected one of 336x336, as the protocol says$",
    ):
        features_of(extractor, torch.zeros(1, 3, read_protocol("cmmd").size, 336))


def test_mae_sees_all_patches_and_its_class_token_does_not_depend_on_their_order(tmp_path: Path) -> None:
    from transformers import ViTMAEConfig, ViTMAEModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    config = ViTMAEConfig(**sizes, image_size=32, patch_size=8)
    tiny_reward_networks.disturbed(ViTMAEModel(config)).save_pretrained(tmp_path)
    extractor = load_extractor("mae", str(tmp_path))
    found = features_of(extractor, images(32))["features"]
    whole = ViTMAEModel.from_pretrained(tmp_path, mask_ratio=0.0, layer_norm_eps=1e-6).eval()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():  # in a random order
        expected = whole((images(32) / 255 - mean) / deviation).last_hidden_state
    assert expected.shape[1] == 1 + 16
    torch.testing.assert_close(found, expected[:, 0], rtol=1e-4, atol=1e-5)
    assert torch.equal(features_of(extractor, images(32))["features"], found)
    assert torch.equal(features_of(extractor, images(32)[1:2])["features"], found[1:2])


def test_convnext_is_the_mean_that_transformers_normalises(tmp_path: Path) -> None:
    from transformers import ConvNextV2Config, ConvNextV2Model

    torch.manual_seed(0)
    config = ConvNextV2Config(hidden_sizes=[4, 8, 12, 16], depths=[1, 1, 1, 1])
    tiny_reward_networks.disturbed(ConvNextV2Model(config)).save_pretrained(tmp_path)
    extractor = load_extractor("convnextv2", str(tmp_path))
    found = features_of(extractor, images(224))["features"]
    network = ConvNextV2Model.from_pretrained(tmp_path).eval()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        expected = network((images(224) / 255 - mean) / deviation).pooler_output
        torch.testing.assert_close(network.layernorm(found), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["clip", "dinov2", "mae", "convnextv2"])
def test_a_folder_without_a_network_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--weights: .*nowhere cannot be opened \("):
        load_extractor(name, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(("height", "width"), [(41, 64), (64, 41), (50, 50)])
def test_cmmd_resizes_the_central_square(height: int, width: int) -> None:
    image = noise_image(height, width)
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).crop((left, top, left + side, top + side))
    expected = np.asarray(picture.resize((24, 24), Image.Resampling.BICUBIC))
    found = resize("square_pil_bicubic_bytes", image, 24)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize(("side", "first"), [(299, 0), (300, 0), (301, 1), (302, 2), (1024, 362)])
def test_a_patch_is_the_centre_without_resizing(side: int, first: int) -> None:
    """Half a pixel is rounded to an even number, as in torchvision: 0.5 to 0, 1.5 to 2, 362.5 to 362."""
    image = noise_image(side, 305)
    expected = image[:, first : first + 299, 3:302].float()
    assert torch.equal(resize("central_patch", image, 299), expected)
