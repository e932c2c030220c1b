"""Diversity of particles: how much renders of different particles from the same camera differ."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from distill.eval.features import checked, features_of, load_extractor, quantise
from distill.eval.images.extraction import prepare
from distill.eval.protocols import Protocol
from distill.eval.scene.psnr import psnr
from distill.eval.scene.results import DiversityResults


def measure_diversity(
    images: Float[Tensor, "particles views c h w"], protocol: Protocol, device: torch.device
) -> DiversityResults:
    """Compare all pairs of particles, view by view, by the features of a protocol and by PSNR."""
    extractor = load_extractor(protocol.features).to(device)
    pictures = quantise(2 * images.flatten(0, 1) - 1, "renders")
    prepared = torch.stack([prepare(picture, protocol) for picture in pictures])
    features = checked(features_of(extractor, prepared)["features"]).unflatten(0, images.shape[:2])
    return {
        "protocol": protocol.name,
        "features": protocol.features,
        "weights_sha256": extractor.sha256,
        "distance": mean_pairwise_distance(features),
        "psnr": mean_pairwise_psnr(images),
    }


def mean_pairwise_distance(features: Float[Tensor, "particles views d"]) -> float:
    """Return the mean Euclidean distance of two particles' features from the same camera."""
    distances = torch.stack([torch.pdist(features[:, view]) for view in range(features.shape[1])])
    return float(distances.mean())


def mean_pairwise_psnr(images: Float[Tensor, "particles views c h w"]) -> float:
    """Return the mean PSNR of two particles' images from the same camera; less is more diverse."""
    pairs = itertools.combinations(images, 2)
    return float(torch.stack([psnr(first, second) for first, second in pairs]).mean())
