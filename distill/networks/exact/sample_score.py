"""The fake score of score distillation sampling (SDS), which takes each sample for the whole distribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.types import Condition, Denoiser, Features


class SampleScore(Denoiser):
    """A fake score whose prediction is the student's sample itself, and which has no parameters.

    It is the exact score of a student that makes one image only, x_0: then eps = (x_t - alpha x_0) / sigma is
    the noise that was added, as SDS has it (Poole et al. 2022, DreamFusion, eq. 3). It is not a function of
    x_t, so the losses take the sample in its place instead of calling it.
    """

    def __init__(self, teacher: Denoiser) -> None:
        super().__init__()
        self.schedule = teacher.schedule
        self.image_shape, self.label_count = teacher.image_shape, teacher.label_count

    @property
    def depth_channels(self) -> dict[str, int]:
        """Return none: it has no features."""
        return {}

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str] = ()) -> Tensor:
        raise TypeError("the fake score of SDS is the sample, which x_t does not tell")

    def features(self, x_t: Tensor, t: Tensor, cond: Condition, depths: Sequence[str]) -> Features:
        raise TypeError("the fake score of SDS has no features")

    def target_weight(self, t: Tensor) -> Tensor:
        """Return ones: its error is zero."""
        return torch.ones_like(t)
