"""Features of diffusers teachers, for a discriminator."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import distill
from tests.helpers.diffusers_families import FURTHER, UNETS
from tests.helpers.diffusers_inputs import PipelineFolders, condition, noise, transformer


@pytest.mark.parametrize("family", UNETS)
@torch.no_grad()
def test_features_are_the_encoder_s(folders: PipelineFolders, family: str) -> None:
    teacher = distill.load_teacher(folders[family])
    x_t, t, cond, depths = noise(teacher), torch.tensor([3.0, 700.5]), condition(teacher), ("8", "bottleneck")
    x0, features = teacher(x_t, t, cond, depths)
    torch.testing.assert_close(x0, teacher(x_t, t, cond))
    assert {depth: tuple(value.shape[1:]) for depth, value in features.items()} == {
        "8": (8, 8, 8),
        "bottleneck": (16, 4, 4),
    }
    assert teacher.depth_channels == {"8": 8, "4": 16, "bottleneck": 16}
    for depth, value in teacher.features(x_t, t, cond, depths).items():
        torch.testing.assert_close(value, features[depth])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in teacher.modules())


def last_norm(network: Any) -> nn.Module:
    """Return the normalisation of the tokens that become the prediction."""
    if hasattr(network, "all_final_layer"):
        return network.all_final_layer["2-1"].norm_final
    if hasattr(network, "visual_transformer_blocks"):
        return network.out_layer.norm
    return getattr(network.norm_out, "norm", network.norm_out)


WIDTHS, SIDES = {"pixart-sigma": 24}, {"sana": 16}
"""Widths of networks that are not 16, and sides of their features that are not 4."""


@pytest.mark.parametrize("family", ["dit", "pixart-sigma", "sd3", "flux", "flux2-klein", "sana", *FURTHER])
@torch.no_grad()
def test_features_of_a_transformer_are_its_blocks_tokens_of_the_image(
    folders: PipelineFolders, family: str
) -> None:
    """Features are the image's tokens, row by row, without those of the text.

    The last block's become the prediction through the network's own last layers.
    """
    teacher = transformer(folders, family)
    blocks = len(teacher.depth_channels) - 1
    width, side = WIDTHS.get(family, 16), SIDES.get(family, 4)
    assert teacher.depth_channels == {
        **{str(number): width for number in range(1, blocks + 1)},
        "bottleneck": width,
    }
    x_t, t, cond = noise(teacher), torch.tensor([0.3, 0.7]), condition(teacher)
    depths = ("1", str(blocks), "bottleneck")
    x0, features = teacher(x_t, t, cond, depths)
    torch.testing.assert_close(x0, teacher(x_t, t, cond))
    seen: list[Tensor] = []
    handle = last_norm(teacher.network).register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0])
    )
    teacher(x_t, t, cond)
    handle.remove()
    assert features["bottleneck"].shape == (2, width, side, side)
    torch.testing.assert_close(features[str(blocks)].flatten(2).mT, seen[0].flatten(1, -2))
    for depth, value in teacher.features(x_t, t, cond, depths).items():
        torch.testing.assert_close(value, features[depth])
