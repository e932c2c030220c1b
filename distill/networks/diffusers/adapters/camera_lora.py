"""Adapters of a U-Net that also read the camera: the fake score of variational score distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.networks.diffusers.adapters.lora import LoRANetwork
from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.types import Condition

FEATURES = 6


class CameraLoRANetwork(LoRANetwork):
    """A `LoRANetwork` whose U-Net adds a linear map of the camera to the embedding of the time.

    The map begins at zero. The fake score then knows from where each image is seen, as in variational score
    distillation (Wang et al. 2023, ProlificDreamer, section 3.3).
    """

    def __init__(
        self,
        base: DiffusersNetwork,
        rank: int,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
    ) -> None:
        embedding = getattr(base.network, "time_embedding", None)
        if embedding is None or getattr(embedding, "cond_proj", None) is not None:
            raise UserError("fake.network.reads_camera: needs a U-Net of Stable Diffusion; expected false")
        super().__init__(base, rank, alpha, targets)
        weight = embedding.linear_1.weight
        self.network.time_embedding.cond_proj = CameraProjection(weight.shape[1], weight.device)

    def initialize_own_weights(self, device: torch.device) -> None:
        super().initialize_own_weights(device)
        projection = self.network.time_embedding.cond_proj
        if projection is not None:  # None while the base class builds the adapters
            projection.camera.to_empty(device=device)
            nn.init.zeros_(projection.camera.weight)

    def _condition(self, cond: Condition, count: int) -> dict[str, Any]:
        if cond.camera is None:
            raise ValueError("the fake score reads cameras, and the condition has none")
        features = camera_features(cond.camera).to(self.dtype)
        return {**super()._condition(cond, count), "timestep_cond": features}


class CameraProjection(nn.Module):
    """A linear map without bias from a camera's features that is zero before training.

    Its weights are in float32, its output has the type of the features.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.camera = nn.Linear(FEATURES, width, bias=False, device=device)
        nn.init.zeros_(self.camera.weight)

    def forward(self, features: Tensor) -> Tensor:
        return self.camera(features.to(self.camera.weight.dtype)).to(features.dtype)


def camera_features(camera: Tensor) -> Tensor:
    """Return features of cameras, (b, 6): sines and cosines of the angles, distance, field of view."""
    azimuth, elevation, distance, field_of_view = camera.unbind(1)
    angles = [azimuth.sin(), azimuth.cos(), elevation.sin(), elevation.cos()]
    return torch.stack([*angles, distance, field_of_view], 1)
