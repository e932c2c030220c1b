"""Settings of the method: objective, density ratio, discriminator. Every published method is a choice of these."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from distill.config.settings import Settings

if TYPE_CHECKING:
    from distill.objectives.density_ratio import BatchLossRatio, DensityRatio
    from distill.objectives.gradient_penalty import GradientPenalty
    from distill.types import Objective


def _known_divergence(text: str) -> str:
    from distill.divergences import parse

    parse(text)
    return text


DivergenceName = Annotated[str, AfterValidator(_known_divergence)]
WEIGHTING = "Units of the comparison: `score`, `prediction`, or `dmd` (prediction over each sample's mean |x - teacher|)."
Weighting = Annotated[Literal["score", "prediction", "dmd"], Field(description=WEIGHTING)]


class DivergenceObjective(Settings):
    """What objectives of an f-divergence share."""

    divergence: DivergenceName
    """The f-divergence: a name, `alpha:1.5`, or a sum such as `0.4*forward_kl+0.6*reverse_kl`."""
    weighting: Weighting = "dmd"
    weight: float = Field(1.0, ge=0)
    """Weight of the objective against the added terms."""

    @property
    def uses_ratio(self) -> bool:
        """The divergence weighs samples by a density ratio."""
        from distill.divergences import parse

        return parse(self.divergence).uses_ratio


class DistributionMatching(DivergenceObjective):
    """(a) The divergence at each noise level: Diff-Instruct, DMD, DMD2, f-distill."""

    name: Literal["distribution_matching"]

    @property
    def needs_graph(self) -> bool:
        """Neither network is differentiated."""
        return False

    def build(self) -> Objective:
        """The objective as a function of `Scores`."""
        from distill.divergences import parse
        from distill.objectives import distribution_matching

        return partial(distribution_matching, divergence=parse(self.divergence), weighting=self.weighting)


class ExpandedDivergence(DivergenceObjective):
    """(c) The diffusion expansion of the divergence: Uni-Instruct."""

    name: Literal["expanded_divergence"]
    estimator: Literal["exact", "published"] = "exact"
    """`exact` is the gradient; `published` has the weights of Uni-Instruct's authors, without the Fisher and the ratio part. Their results
    need `ratio.source: batch_loss` beside it: the ratio of their code is one constant for the batch, so that forward KL trains as SiDA does."""
    sim: float | None = None
    """Coefficient of the part 2 h delta.e; null leaves it to the estimator."""
    fisher: float | None = None
    """Coefficient of the part (h - r h') |delta|^2; null leaves it to the estimator."""
    di: float | None = None
    """Coefficient of the part r^2 h'' |delta|^2; null leaves it to the estimator."""
    ratio: float | None = None
    """Coefficient of the part 2 r h' delta.e; null leaves it to the estimator."""

    @property
    def needs_graph(self) -> bool:
        """Both networks are differentiated with respect to their inputs."""
        return True

    def build(self) -> Objective:
        """The objective as a function of `Scores`."""
        from distill.divergences import parse
        from distill.objectives import EXACT_PARTS, PUBLISHED_PARTS, expanded_divergence

        chosen = {
            name: value
            for name in ("sim", "fisher", "di", "ratio")
            if (value := getattr(self, name)) is not None
        }
        parts = dataclasses.replace(EXACT_PARTS if self.estimator == "exact" else PUBLISHED_PARTS, **chosen)
        return partial(
            expanded_divergence, divergence=parse(self.divergence), parts=parts, weighting=self.weighting
        )


class ScoreMatching(Settings):
    """(b) A score-based divergence: SIM, SiD, SiDA, Diff-Instruct*."""

    name: Literal["score_matching"]
    distance: Literal["l2", "pseudo_huber"] = "l2"
    """Distance between the scores."""
    alpha: float = 1.0
    """1 is SIM; 1/2 with `l2` the exact Fisher gradient; SiD found 1.2 best."""
    c: float = Field(0.01, gt=0)
    """Constant of the pseudo-Huber distance, in the units of the weighting."""
    weighting: Weighting = "dmd"
    weight: float = Field(1.0, ge=0)
    """Weight of the objective against the added terms."""

    @property
    def needs_graph(self) -> bool:
        """Both networks are differentiated with respect to their inputs."""
        return True

    @property
    def uses_ratio(self) -> bool:
        """Never."""
        return False

    def build(self) -> Objective:
        """The objective as a function of `Scores`."""
        from distill.objectives import score_matching

        return partial(
            score_matching, distance=self.distance, alpha=self.alpha, c=self.c, weighting=self.weighting
        )


ObjectiveSettings = Annotated[
    DistributionMatching | ScoreMatching | ExpandedDivergence, Field(discriminator="name")
]


class RatioSettings(Settings):
    """Density ratio of teacher to student, one per sample."""

    source: Literal["discriminator", "exact", "batch_loss"] = "discriminator"
    """Where its logarithm comes from: the discriminator's logit for each sample; in the laboratory with an exact fake score, the densities
    themselves (`exact`); or one constant for all samples, the mean GAN loss of the step before over the elements of an image (`batch_loss`), about
    1.0002 at 32x32: what Uni-Instruct's published code trains with. It takes no clamping and no normalisation."""
    low: float = Field(0.1, gt=0)
    """Smallest ratio."""
    high: float = Field(20.0, gt=0)
    """Largest ratio."""
    normalise: bool = True
    """Divide the ratio by its running mean within each bin of noise levels, and the objective by the running mean of its weight h."""
    bins: int = Field(10, ge=1)
    """Bins of noise levels, each a quantile of the generator's."""
    decay: float = Field(0.99, ge=0, lt=1)
    """Decay of the running means, per generator step."""
    start_step: int = Field(0, ge=0)
    """Generator step from which samples are weighted by it; before, all weights are that of r = 1. The running means are kept from the start."""

    def build(self, objective: ObjectiveSettings) -> DensityRatio | BatchLossRatio:
        """The ratio that this objective weighs by."""
        from distill.divergences import parse
        from distill.objectives.density_ratio import BatchLossRatio, DensityRatio

        if self.source == "batch_loss":
            return BatchLossRatio()
        divergence = parse(
            objective.divergence if isinstance(objective, DivergenceObjective) else "reverse_kl"
        )
        return DensityRatio(divergence, **self.model_dump(exclude={"source", "start_step"}))


class R1Settings(Settings):
    """R1 gradient penalty of the discriminator on noised real images."""

    weight: float = Field(gt=0)
    """weight/2 times the squared norm of the logit's gradient, over all dimensions, is added to the discriminator's loss."""
    at: Literal["image", "features"] = "image"
    """What the gradient is with respect to: the noised image, or, cheaper and blind to the network that is read, its features."""
    approximate: bool = False
    """Take a difference along a random direction of the image for the gradient, as APT does: no second derivatives."""
    step: float = Field(0.1, gt=0)
    """Standard deviation of that direction, in the units of the noised image. APT's coefficient is weight/(2 step^2)."""

    @model_validator(mode="after")
    def _fits_together(self) -> R1Settings:
        if self.approximate and self.at == "features":
            raise ValueError("approximate: moves the image; expected at: image")
        return self

    def build(self) -> GradientPenalty:
        """The penalty as a function of features, heads and images."""
        from distill.objectives.gradient_penalty import GradientPenalty

        return GradientPenalty(**self.model_dump())
