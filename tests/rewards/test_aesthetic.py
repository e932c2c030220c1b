"""LAION's aesthetic predictor against its published usage: CLIP's embedding and the head with dropouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import from_bytes
from distill.rewards import of_name
from distill.rewards.aesthetic import FILE
from distill.rewards.pretrained.score_head import ScoreHead
from distill.types import Condition, Reward
from tests.helpers import published_rewards as published
from tests.helpers import tiny_reward_networks as tiny_networks
from tests.helpers.tiny_reward_networks import SIZE, floats, gradient_errors, pixels


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tiny_networks.clip(tmp_path_factory.mktemp("aesthetic"))
    torch.save(tiny_networks.disturbed(published.head(12)).state_dict(), root / FILE)
    return root


@pytest.fixture(scope="module")
def reward(root: Path) -> Reward:
    return of_name("aesthetic", path=str(root / FILE), clip=str(root)).load()


def expected(root: Path, images: Tensor) -> Tensor:
    from transformers import CLIPModel

    head = published.head(12).eval()
    head.load_state_dict(torch.load(root / FILE, weights_only=True))
    network = CLIPModel.from_pretrained(root)
    with torch.no_grad():
        seen = network.vision_model(
            torch.stack([published.crop(published.to_image(image), SIZE) for image in images])
        ).pooler_output
        features = seen @ network.visual_projection.weight.T
        return head.layers(features / features.norm(dim=1, keepdim=True))[:, 0]


def test_it_is_the_published_predictor(root: Path, reward: Reward) -> None:
    """In an image of 45x40 three rows are too many, and the middle is rounded as in torchvision."""
    images = pixels(3, 45, 40)
    with torch.no_grad():
        found = reward(from_bytes(images), Condition())
    assert found.std() > 1e-3
    torch.testing.assert_close(found, expected(root, images), rtol=1e-5, atol=1e-5)


def test_gradient_is_that_of_finite_differences(root: Path) -> None:
    error, size = gradient_errors(
        of_name("aesthetic", path=str(root), clip=str(root)).load(), floats(), Condition()
    )
    assert size > 1e-3
    assert error < 1e-6


def test_the_published_names_and_shapes(root: Path, reward: Reward) -> None:
    state = {
        f"layers.{number}.weight": shape
        for number, shape in zip(
            (0, 2, 4, 6, 7), ((1024, 768), (128, 1024), (64, 128), (16, 64), (1, 16)), strict=True
        )
    }
    biases = {name.replace("weight", "bias"): shape[:1] for name, shape in state.items()}
    assert {name: tuple(value.shape) for name, value in ScoreHead().state_dict().items()} == state | biases
    before = reward(from_bytes(pixels()), Condition())
    assert torch.equal(reward.train()(from_bytes(pixels()), Condition()), before)  # the dropouts are gone
    reward.eval()


def test_another_head_is_refused_by_the_first_name_that_differs(root: Path, tmp_path: Path) -> None:
    torch.save(published.head(13).state_dict(), tmp_path / FILE)
    complaint = r"weights of another architecture: layers.0.weight is \(1024, 13\); expected \(1024, 12\)$"
    with pytest.raises(UserError, match=complaint):
        of_name("aesthetic", path=str(tmp_path), clip=str(root)).load()
    with pytest.raises(
        UserError,
        match=r"^aesthetic.path: .* cannot be had \(.*\); expected a file, a folder or a name on the hub$",
    ):
        of_name("aesthetic", path="https://127.0.0.1:9/nowhere", clip=str(root)).load()
