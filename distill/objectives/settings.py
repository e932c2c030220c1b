"""Settings of the objective, the density ratio and the R1 penalty, whose choices are the published
methods."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from distill.config.settings import Settings
from distill.objectives.choices import Distance, WeightingName
from distill.objectives.real_data import RealData

if TYPE_CHECKING:
    from distill.objectives.density_ratio import BatchLossRatio, DensityRatio
    from distill.types import Objective, Penalty


def _check_divergence(text: str) -> str:
    from distill.divergences import parse

    parse(text)
    return text


DivergenceName = Annotated[str, AfterValidator(_check_divergence)]
Weighting = Annotated[
    WeightingName,
    Field(
        description="Units of the comparison. `score` is the textbook's, in which low noise levels outweigh "
        "all others; `prediction` compares predictions of x_0, which puts all levels on one scale; `dmd` "
        "also divides by each sample's mean |x_0 - teacher|, as DMD and SiD do, and is the choice for images."
    ),
]


class DivergenceObjective(Settings):
    """Settings that the objectives of an f-divergence share."""

    divergence: DivergenceName
    """f-divergence from teacher to student: `reverse_kl`, `forward_kl`, `jeffreys`, `jensen_shannon`,
    `softened_reverse_kl`, `squared_hellinger`, `pearson_chi2`, `neyman_chi2`, a member of the alpha family
    such as `alpha:1.5`, or a sum such as `0.4*forward_kl+0.6*reverse_kl`. `reverse_kl` needs no density ratio
    and may drop modes; `forward_kl` covers modes, with noisier gradients."""
    weighting: Weighting = "dmd"
    weight: float = Field(1.0, ge=0)
    """Weight of the objective in the generator's loss, relative to the terms. 0 trains with the terms
    alone."""

    @property
    def real_data(self) -> RealData | None:
        """None: no real images are part of the fake score's loss."""
        return None

    @property
    def uses_ratio(self) -> bool:
        """True if the divergence weights samples by a density ratio."""
        from distill.divergences import parse

        return parse(self.divergence).uses_ratio


class DistributionMatching(DivergenceObjective):
    """Distribution matching, a divergence at each noise level: Diff-Instruct, DMD, DMD2, f-distill."""

    name: Literal["distribution_matching"]

    @property
    def needs_graph(self) -> bool:
        """False: no gradient flows through teacher and fake score."""
        return False

    def build(self) -> Objective:
        """Return the objective as a function of `Scores`."""
        from distill.divergences import parse
        from distill.objectives import distribution_matching

        return partial(distribution_matching, divergence=parse(self.divergence), weighting=self.weighting)


class ExpandedDivergence(DivergenceObjective):
    """Diffusion expansion of the divergence over all noise levels: Uni-Instruct."""

    name: Literal["expanded_divergence"]
    estimator: Literal["exact", "published"] = "exact"
    """`exact` is the gradient of the expansion. `published` has the weights of the code of Uni-Instruct's
    authors, which leave out the parts `fisher` and `ratio`; reproducing their results also needs
    `ratio.source: batch_loss`."""
    sim: float | None = None
    """Coefficient of the part 2 h delta.e, the change of the student's score. null takes the estimator's,
    which is 1."""
    fisher: float | None = None
    """Coefficient of the part (h - r h') |delta|^2, the movement of the samples at constant weight. null
    takes the estimator's: 1 if exact, 0 if published."""
    di: float | None = None
    """Coefficient of the part r^2 h'' |delta|^2, the movement of the samples through their weight. null takes
    the estimator's, which is 1."""
    ratio: float | None = None
    """Coefficient of the part 2 r h' delta.e, the change of the weight of `sim`. null takes the estimator's:
    1 if exact, 0 if published. Set 0 if noise levels come near zero, where a discriminator's ratio is too
    flat and this part makes training diverge."""

    @property
    def needs_graph(self) -> bool:
        """True: gradients flow through teacher and fake score to their inputs."""
        return True

    def build(self) -> Objective:
        """Return the objective as a function of `Scores`."""
        from distill.divergences import parse
        from distill.objectives import EXACT_PARTS, PUBLISHED_PARTS, expanded_divergence

        parts = EXACT_PARTS if self.estimator == "exact" else PUBLISHED_PARTS
        chosen = self.model_dump(include={"sim", "fisher", "di", "ratio"}, exclude_none=True)
        parts = dataclasses.replace(parts, **chosen)
        return partial(
            expanded_divergence, divergence=parse(self.divergence), parts=parts, weighting=self.weighting
        )


class ScoreMatching(Settings):
    """Score matching, the gradient of a distance between the two scores: SIM, SiD, SiDA, Diff-Instruct*."""

    name: Literal["score_matching"]
    distance: Distance = "l2"
    """Distance between the scores. `l2` is the squared distance of SiD; `pseudo_huber` limits the gradient of
    samples with a large difference, as in SIM and Diff-Instruct*."""
    alpha: float = 1.0
    """Coefficient of SiD's correction. 1 leaves the correction out, as SIM and SiDA do; 1/2 with `l2` is the
    exact gradient of the Fisher divergence; SiD found 1.2 best."""
    c: float = Field(0.01, gt=0)
    """Constant of the pseudo-Huber distance, in the units of the weighting, compared with the norm over all
    elements of a sample. A smaller one gives every sample a gradient of the same length; a larger one
    approaches `l2`."""
    weighting: Weighting = "dmd"
    weight: float = Field(1.0, ge=0)
    """Weight of the objective in the generator's loss, relative to the terms. 0 trains with the terms
    alone."""
    real_data: RealData | None = None
    """Real data in the fake score's loss and in the objective, as in RealUID: {alpha: 0.95, beta: 0.97}. It
    goes with `distance: l2`; the authors' loss is that of `alpha: 0.5`. null trains without data."""

    @model_validator(mode="after")
    def _real_data_fit(self) -> ScoreMatching:
        if self.real_data is not None and self.distance != "l2":
            raise ValueError(f"real_data: does not go with distance: {self.distance}; expected l2")
        return self

    @property
    def needs_graph(self) -> bool:
        """True: gradients flow through teacher and fake score to their inputs."""
        return True

    @property
    def uses_ratio(self) -> bool:
        """False: no density ratio weights the samples."""
        return False

    def build(self) -> Objective:
        """Return the objective as a function of `Scores`."""
        from distill.objectives import score_matching

        return partial(
            score_matching,
            distance=self.distance,
            alpha=self.alpha,
            c=self.c,
            weighting=self.weighting,
            real_data=self.real_data,
        )


ObjectiveSettings = Annotated[
    DistributionMatching | ScoreMatching | ExpandedDivergence, Field(discriminator="name")
]


class RatioSettings(Settings):
    """Density ratio of teacher to student, by which the divergence weights samples."""

    source: Literal["discriminator", "exact", "batch_loss"] = "discriminator"
    """Source of the ratio. `discriminator` takes each sample's logit. `exact` takes the known densities, in
    the laboratory with an exact fake score. `batch_loss` takes one constant for all samples, exp(mean GAN
    loss of the step before / elements of an image), about 1.0002 at 32x32, as Uni-Instruct's published code
    does, without clamping and normalisation."""
    low: float = Field(0.1, gt=0)
    """Minimum of the ratio before it is normalised, by default f-distill's. A larger one limits how little a
    sample can count."""
    high: float = Field(20.0, gt=0)
    """Maximum of the ratio before it is normalised, by default f-distill's. A smaller one limits how much a
    sample can count."""
    normalise: bool = True
    """Divide the ratio by its running mean within each bin of noise levels, which is 1 for the true ratio,
    and the objective by the running mean of its weight h, which keeps the objective's size the same for all
    divergences."""
    bins: int = Field(10, ge=1)
    """Number of bins, each with the same share of the generator's noise levels. More bins follow the noise
    level more closely, with fewer samples each."""
    decay: float = Field(0.99, ge=0, lt=1)
    """Decay of the running means, per generator step. A larger one averages over more steps: 0.99 over about
    100."""
    start_step: int = Field(0, ge=0)
    """Step of the run from which samples are weighted by the ratio, including the steps of
    `fake.warmup_steps`; before, all have the weight of r = 1. The running means are kept from the first
    update of the generator on."""

    def build(self, objective: ObjectiveSettings) -> DensityRatio | BatchLossRatio:
        """Return the density ratio by which this objective weights samples."""
        from distill.divergences import parse
        from distill.objectives.density_ratio import BatchLossRatio, DensityRatio

        if self.source == "batch_loss":
            return BatchLossRatio()
        name = objective.divergence if isinstance(objective, DivergenceObjective) else "reverse_kl"
        return DensityRatio(parse(name), **self.model_dump(exclude={"source", "start_step"}))


class R1Settings(Settings):
    """R1 penalty on the discriminator's gradient at noised real images, which keeps its logit smooth."""

    weight: float = Field(gt=0)
    """weight/2 times the squared norm of the logit's gradient, over all dimensions, is added to the
    discriminator's loss. A larger weight makes the logit smoother and the discriminator weaker."""
    at: Literal["image", "features"] = "image"
    """Variable of the gradient: the noised image, or the features that the heads read. `features` is cheaper,
    but ignores the network below them."""
    approximate: bool = False
    """Replace the gradient with a finite difference along a random direction of the image, as APT does. It
    needs no second derivatives."""
    step: float = Field(0.1, gt=0)
    """Standard deviation of that direction, in the units of the noised image. A smaller one is nearer to the
    exact gradient until rounding dominates. APT's coefficient is weight/(2 step^2)."""
    recompute: bool = False
    """Recompute the blocks of our own networks, EDM's and EDM2's in both derivatives of the exact penalty at
    the image. At CIFAR-10 size the penalty holds 2.6 GiB instead of 8.9 for 64 images, and the step costs a
    fifth more, with a trained network below the heads a third (by the dry run). Changes results by rounding
    only."""

    @model_validator(mode="after")
    def _check_variable(self) -> R1Settings:
        if self.approximate and self.at == "features":
            raise ValueError("approximate: moves the image; expected at: image")
        return self

    def build(self, one_pass: bool = False) -> Penalty:
        """Return the penalty as a function of features, heads, images and directions.

        With `one_pass` both ends of a finite difference are one batch, in which dropout would differ.
        """
        from distill.objectives.gradient_penalty import gradient_penalty

        return partial(gradient_penalty, **self.model_dump(), one_pass=one_pass)
