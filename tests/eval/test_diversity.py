"""Diversity within a condition, in sets whose variances are known."""

from __future__ import annotations

import pytest
import torch

from distill.eval.images.streams import NetworkImages
from distill.eval.metrics.diversity import diversity, within_variance
from distill.networks.few_step_generator import FewStepGenerator
from distill.networks.sizes import UNetSizes
from distill.networks.unet import UNet, UNetConfig


def test_the_variance_within_a_condition_is_unbiased_and_ignores_the_means() -> None:
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [10.0, 5.0], [10.0, 8.0], [10.0, 2.0]])
    conditions = torch.tensor([7, 7, 3, 3, 3])
    # 2 around (1, 0), with one degree of freedom; 18 around (10, 5), with two.
    assert within_variance(features, conditions) == pytest.approx((2 + 18) / 3)


def test_one_condition_of_the_real_images_themselves_has_diversity_one() -> None:
    real = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert diversity(real, torch.zeros(50, dtype=torch.int64), real) == pytest.approx(1.0)


def test_a_condition_that_always_gives_the_same_image_has_none() -> None:
    real = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    made = real[:5].repeat(3, 1)
    assert diversity(made, torch.arange(15) % 5, real) == 0.0


def test_single_images_of_a_condition_have_no_diversity() -> None:
    real = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert diversity(real, torch.arange(5), real) is None


def test_the_conditions_of_a_network_are_its_labels_in_turn() -> None:
    network = UNet(UNetConfig(8, 1, 3, UNetSizes(width=8, multipliers=(1,), blocks=1)))
    stream = NetworkImages(FewStepGenerator(network, 2.5), 5)
    assert stream.conditions is not None
    assert stream.conditions.tolist() == [0, 1, 2, 0, 1]
