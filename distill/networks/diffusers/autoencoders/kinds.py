"""The kinds of autoencoders in diffusers' pipelines: their latents' sizes, and how they are normalised."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distill.diffusion.constants import constant


def own_channels(config: Any) -> int:
    channels: int = config.latent_channels
    return channels


def level_factor(vae: Any) -> int:
    """Return 2^(levels - 1): each level after the first halves the height."""
    config = vae.config
    levels = config.get("encoder_block_out_channels") or config.block_out_channels
    return int(2 ** (len(levels) - 1))


def own_factor(vae: Any) -> int:
    factor: int = vae.config.get("spatial_compression_ratio") or vae.spatial_compression_ratio
    return factor


def configured_statistics(vae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Read mean and standard deviation, or shift and scale, from the configuration."""
    config = vae.config
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, std = tuple(config.latents_mean), tuple(config.latents_std)
    else:
        mean, std = (config.get("shift_factor") or 0.0,), (1.0,)
    mean_tensor, std_tensor = (constant(values, x).reshape(1, -1, 1, 1) for values in (mean, std))
    return mean_tensor, std_tensor / (config.get("scaling_factor") or 1.0)


def batch_norm_statistics(vae: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the running statistics of a batch norm over the channels of 2x2 squares, for each position."""
    mean = vae.bn.running_mean
    std = (vae.bn.running_var + vae.config.batch_norm_eps).sqrt()
    return _over_squares(mean, x), _over_squares(std, x)


def _over_squares(values: Tensor, x: Tensor) -> Tensor:
    """Turn numbers of channels of 2x2 squares, (4c,), into a map (1, c, h, w) of latents of x's size."""
    _, _, height, width = x.shape
    squares = values.to(x).reshape(1, -1, 1, 1).expand(1, -1, height // 2, width // 2)
    return torch.nn.functional.pixel_shuffle(squares, 2)


@dataclasses.dataclass(frozen=True)
class AutoencoderKind:
    """What an autoencoder of a class gives for images."""

    channels: Callable[[Any], int] = own_channels
    """Returns the channels of latents, given the configuration."""
    pixel_channels: str = "in_channels"
    """Setting with the channels of images."""
    factor: Callable[[Any], int] = own_factor
    """Returns the pixels to one side of a latent."""
    statistics: Callable[[Any, Tensor], tuple[Tensor, Tensor]] = configured_statistics
    """Returns mean and standard deviation of latents, given some; the network's have 0 and 1."""
    is_of_videos: bool = False
    """It takes and returns videos, (b, c, frames, h, w); an image is one frame."""


AUTOENCODERS = {
    "AutoencoderKL": AutoencoderKind(factor=level_factor),
    "AutoencoderDC": AutoencoderKind(factor=level_factor),
    "AutoencoderKLFlux2": AutoencoderKind(factor=level_factor, statistics=batch_norm_statistics),
    "AutoencoderKLHunyuanImage": AutoencoderKind(),
    "AutoencoderKLQwenImage": AutoencoderKind(
        channels=lambda config: config.z_dim, pixel_channels="input_channels", is_of_videos=True
    ),
}
"""The kinds by the names of their classes in diffusers."""
