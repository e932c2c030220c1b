"""A teacher with random weights, also in layers that start at zero, saved as a user would have it."""

from pathlib import Path

import torch

from distill.networks.folder import save_model
from distill.networks.sizes import UNetSizes
from distill.networks.unet import UNet, UNetConfig


def save_random_teacher(folder: Path, **sizes: int | float | tuple[int, ...]) -> UNet:
    """Write a small network for the digits into a new folder and return it in evaluation mode."""
    torch.manual_seed(0)
    network = UNet(UNetConfig(8, 1, 10, UNetSizes(**{"width": 8, "blocks": 1, **sizes}))).eval()
    for parameter in network.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    folder.mkdir()
    save_model(network, folder)
    return network
