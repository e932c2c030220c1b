"""Settings of real data in the losses of student and fake score. `gradients/real_data.py` has the losses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distill.config.settings import Settings
from distill.diffusion.prediction_types import PredictionType


class RealData(Settings):
    """Real data in the fake score's loss and in the objective, without a discriminator, as in RealUID."""

    alpha: float = Field(gt=0, le=1)
    """Share of student samples in the fake score's loss; the other samples are real images. 1 with `beta: 1`
    is the objective without data. A smaller share keeps the fake score nearer to the data, and the student's
    gradient smaller. The authors take 0.85 to 1."""
    beta: float = Field(gt=0, le=1)
    """Weight of the student's samples as targets of the fake score. Other than `alpha` it makes the fake
    score differ from the teacher wherever student and data differ in density. The authors advise a beta of
    0.98 or 1.02 times alpha; further away the loss has more variance."""
    real: Literal["data", "teacher"] = "data"
    """Images that count as real: those of `data`, or the stored `teacher_samples`. A discriminator of the
    same run takes the same ones."""
    target: PredictionType = "flow_prediction"
    """Quantity whose target is scaled by beta/alpha. The default, the velocity noise - image, is the authors'
    with flow matching, and has a bounded size at every noise level. With `beta` equal to `alpha` it makes no
    difference."""
