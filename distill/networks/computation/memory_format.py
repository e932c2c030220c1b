"""Channels last: the memory format in which convolutions on GPUs need no transposition of their own."""

from __future__ import annotations

import torch
from torch import nn

from distill.types import ImageModel


def use_channels_last(network: nn.Module) -> None:
    """Hold a network's convolutional weights with channels last, and those of its autoencoder.

    Activations follow the weights, so that inputs keep their format. Later copies, averages and optimiser
    states have the format too; saved files do not, and can be loaded in either.
    """
    parts = [network]
    if isinstance(network, ImageModel):
        parts += network.frozen_components().values()
    for part in parts:
        for parameter in part.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
