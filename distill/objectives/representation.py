"""A distance of features as a term of the generator's loss: decode, extract, compare."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from distill.networks import efficientnet_lite0
from distill.objectives.feature_distances import FeatureDistance
from distill.objectives.reward_loss import CheckpointedDecoder, decode, full_precision
from distill.objectives.term import TermInputs
from distill.types import LossOutput

SIZE = (224, 224)
"""Height and width that EfficientNet-Lite0 takes."""


class FeatureExtractor(nn.Module):
    """Maps images (b, c, h, w) in [-1, 1] to features (b, d), differentiably."""

    def dimension(self, image_shape: tuple[int, ...]) -> int:
        """Return d for images of this shape."""
        raise NotImplementedError


class Pixels(FeatureExtractor):
    """The pixels themselves."""

    def dimension(self, image_shape: tuple[int, ...]) -> int:
        return math.prod(image_shape)

    def forward(self, images: Tensor) -> Float[Tensor, "b d"]:
        return images.flatten(1)


class EfficientNetFeatures(FeatureExtractor):
    """The 1280 features that the protocol fd-effnet measures by, without rounding pixels to bytes.

    Images are resized to 224x224 by the bicubic filter of Pillow, which torch has too.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def dimension(self, image_shape: tuple[int, ...]) -> int:
        return efficientnet_lite0.FEATURES

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        levels = (127.5 * (images + 1)).clamp(0, 255).expand(-1, 3, -1, -1)
        resized = F.interpolate(levels, size=SIZE, mode="bicubic", antialias=True).clamp(0, 255)
        normalised = (resized - efficientnet_lite0.MEAN) / efficientnet_lite0.DEVIATION
        return efficientnet_lite0.pool(self.network, normalised)


class RepresentationTerm(nn.Module):
    """A `StatefulTerm`: the distance of the student's features to those of real images.

    Features are computed in at least float32. Every sample counts, whatever its condition. The metric is the
    distance itself, over all batches that the memory holds. Before `begin`, in a dry run, the term is the
    mean square of the features, which costs as much but for the distance.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        distance_of: Callable[[int], FeatureDistance],
        checkpoint_decoder: bool = True,
    ) -> None:
        super().__init__()
        self.extractor, self._distance_of = extractor, distance_of
        self.state: FeatureDistance | None = None
        self.decoder = CheckpointedDecoder() if checkpoint_decoder else None
        self._pending: list[Tensor] = []

    def begin(self, image_shape: tuple[int, ...], device: torch.device) -> nn.Module:
        """Make the distance for images of this shape, and return it: checkpoints hold its memory."""
        self.state = self._distance_of(self.extractor.dimension(image_shape)).to(device)
        return self.state

    def forward(self, inputs: TermInputs) -> LossOutput:
        """Return the loss of each sample, (b,), and the distance."""
        images = decode(inputs.generator, inputs.scores.x0, self.decoder)
        features = self.features(images)
        if self.state is None:
            return LossOutput(features.square().mean(1))
        self._pending.append(features.detach())
        with full_precision(images.device):
            distance = self.state.distance(features.detach())
            return LossOutput(self.state(features), {"distance": distance.expand(len(features))})

    def features(self, images: Float[Tensor, "b ..."]) -> Float[Tensor, "b d"]:
        """Return the features of images in [-1, 1], or of vectors."""
        with full_precision(images.device):
            features: Tensor = self.extractor(images.to(torch.promote_types(images.dtype, torch.float32)))
        return features

    def prepare(self, real: Float[Tensor, "n d"]) -> None:
        """Take the features of the real images."""
        if self.state is None:
            raise ValueError("a term is prepared after it has begun")
        self.state.prepare(real)

    def commit(self, gather: Callable[[Tensor], Tensor]) -> None:
        """Remember the features of the step, of all micro-batches and processes."""
        if self._pending and self.state is not None:
            self.state.remember(gather(torch.cat(self._pending)))
            self._pending.clear()
