"""Channels last: the memory format in which convolutions on GPUs need no transposition of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

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


def take_channels_last(network: nn.Module) -> None:
    """Let a network's convolutions bring their inputs to channels last, and leave their weights as they are.

    Activations follow the first one. It is for weights that cannot change their format, those of sharded
    networks; each convolution then transposes its weight.
    """
    for module in network.modules():
        weight = module._parameters.get("weight")
        if weight is not None and weight.ndim == 4:
            module.register_forward_pre_hook(_in_channels_last)


def _in_channels_last(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    first, *others = inputs
    if isinstance(first, Tensor) and first.ndim == 4:
        first = first.contiguous(memory_format=torch.channels_last)
    return (first, *others)
