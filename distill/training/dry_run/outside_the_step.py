"""What a run does between its steps, or before one: its preview, and the encoding of real images."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Int64
from torch import Tensor

from distill.data.images import preview_count
from distill.diffusion.sampling import max_batch_size
from distill.training.dry_run.meta_kernels import kernels
from distill.training.dry_run.step import Action
from distill.types import ImageModel

PREVIEW = "preview samples"


def preview_rows(network: ImageModel, device: torch.device) -> Int64[Tensor, " n"]:
    """Return a row of a batch, the first, for each of the preview images that a run makes at once."""
    count = min(max_batch_size(network.pixel_shape), preview_count(network.pixel_shape))
    return torch.zeros(count, dtype=torch.int64, device=device)


def encoding(network: ImageModel, batch_size: int, device: torch.device) -> dict[str, Action]:
    """Return the encoding of a batch of real images by name; nothing for a network of pixels."""
    if network.pixel_shape == network.image_shape:
        return {}
    count = min(batch_size, max_batch_size(network.pixel_shape))
    return {"encoding real images": partial(encode, network, count, device)}


@torch.no_grad()
def encode(network: ImageModel, count: int, device: torch.device) -> None:
    """Encode that many images to latents."""
    with kernels(device):
        network.encode(torch.zeros(count, *network.pixel_shape, device=device))
