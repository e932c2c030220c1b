"""Data of a latent model that are encoded once, before training, instead of in each batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from distill.config.errors import UserError
from distill.data import InMemory
from distill.data.stored_inputs import LatentSource
from distill.diffusion.sampling import max_batch_size
from distill.networks.identity import part_sha256
from distill.training.batches.reading import MAX_ON_DEVICE
from distill.training.parallel.processes import Processes
from distill.training.parallel.sampling import gather_rows, own_rows
from distill.types import ImageModel, InMemorySource, to_device


def hold_latents(data: InMemorySource, network: ImageModel) -> bool:
    """Return whether memory holds the latents of all images."""
    return 4 * len(data) * math.prod(network.image_shape) <= MAX_ON_DEVICE


@torch.no_grad()
def encode_all(data: InMemorySource, network: ImageModel, processes: Processes) -> InMemory:
    """Return the latents of all images with their labels. Each process encodes a part of them."""
    rows = torch.tensor(own_rows(len(data), processes))
    parts = [data.batch(part) for part in rows.split(max_batch_size(network.pixel_shape))]
    own = [network.encode(to_device(images, processes.device)) for images, _ in parts]
    latents = gather_rows(torch.cat(own), len(data), processes).cpu()
    labels = gather_rows(torch.cat([labels for _, labels in parts]), len(data), processes).cpu()
    return InMemory(latents, labels, data.label_count)


def describe_autoencoder(network: ImageModel) -> dict[str, str]:
    """Return the hashes of the parts of a network's autoencoder, by name."""
    parts = {} if network.codec is None else network.codec.components()
    return {name: part_sha256(part) for name, part in sorted(parts.items())}


def check_latents(data: LatentSource, network: ImageModel) -> None:
    """Raise UserError if latents are those of another autoencoder than the network's."""
    if network.codec is None:
        raise UserError("data: are latents, and the network works on pixels; expected a source of images")
    weights = [weight for part in network.codec.components().values() for weight in part.parameters()]
    if any(isinstance(weight, DTensor) for weight in weights):
        count = sum(weight.numel() for weight in weights)
        raise UserError(
            "sharding.min_component_parameters: shards the autoencoder, to which the latents are compared; "
            f"expected more than {count}"
        )
    for name, sha256 in describe_autoencoder(network).items():
        if data.autoencoder.get(name) != sha256:
            raise UserError(
                f"data.path: its latents belong to another autoencoder than the teacher's {name}; "
                "expected those that python -m distill precompute wrote for this teacher"
            )


def encode_parts(encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Encode a batch in parts that fit beside other tensors."""
    parts = images.split(max_batch_size(tuple(images.shape[1:])))
    return torch.cat([encode(part) for part in parts])
