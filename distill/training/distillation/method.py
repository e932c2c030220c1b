"""The networks of a distillation, and everything that it minimises."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from distill.diffusion.guidance import guided
from distill.diffusion.guidance_scales import GuidanceScales
from distill.diffusion.noise_levels import Annealing, NoiseLevels
from distill.networks.exact.sample_score import SampleScore
from distill.objectives.calibration import Calibration
from distill.objectives.density_ratio import BatchLossRatio, DensityRatio
from distill.objectives.real_data import RealData
from distill.objectives.term import Term, TermSettings
from distill.types import Condition, Critic, Denoiser, Features, Generator, Objective, Penalty, Prediction


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a distillation."""

    teacher: Denoiser
    fake: Denoiser
    generator: Generator
    discriminator: Critic | None = None
    """It reads the features of the teacher or of the fake score."""

    def read_by(self, discriminator: Critic) -> Denoiser:
        """Return the network whose features the discriminator reads."""
        return self.teacher if discriminator.reads == "teacher" else self.fake

    def predict(
        self,
        network: Denoiser,
        x0: Tensor,
        x_t: Tensor,
        t: Tensor,
        cond: Condition,
        scale: float,
        with_both_sides: bool = False,
    ) -> Prediction:
        """Return a network's guided prediction at x_t, which is x0 with noise.

        The discriminator's logits come with it if the discriminator reads this network.
        """
        if isinstance(network, SampleScore):
            return Prediction(x0.detach())
        critic = self.discriminator
        if critic is not None and self.read_by(critic) is not network:
            critic = None
        return guided(network, x_t, t, cond, scale, critic, with_both_sides)

    def features(self, discriminator: Critic, x_t: Tensor, t: Tensor, cond: Condition) -> Features:
        """Return the features that the discriminator reads at x_t."""
        return self.read_by(discriminator).features(x_t, t, cond, discriminator.depths)

    def logits(self, discriminator: Critic, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """Return the discriminator's logits at x_t, (b,), or (b, n) for n positions."""
        logits: Tensor = discriminator(self.features(discriminator, x_t, t, cond))
        return logits.to(x_t.dtype)


@dataclasses.dataclass(frozen=True)
class WeightedTerm:
    """A term of the generator's loss with its settings, which hold its name, its weight and its inputs."""

    settings: TermSettings
    term: Term


@dataclasses.dataclass(frozen=True)
class ActiveParts:
    """The parts of a method that count at a step of the run."""

    terms: tuple[WeightedTerm, ...]
    weights: tuple[float | Tensor, ...]
    """The weight of each term, which may change from step to step."""
    uses_ratio: bool
    levels: NoiseLevels

    def on(self, device: torch.device) -> ActiveParts:
        """Return them with weights on a device: a compiled loss takes a tensor as input, a number as code."""
        weights = tuple(torch.full((), float(weight), device=device) for weight in self.weights)
        return dataclasses.replace(self, weights=weights)


@dataclasses.dataclass(frozen=True)
class Method:
    """Everything that a run minimises, and the noise levels of each update."""

    objective: Objective
    needs_graph: bool
    """The objective differentiates teacher and fake score with respect to their inputs."""
    objective_weight: float
    ratio: DensityRatio | BatchLossRatio | None
    terms: tuple[WeightedTerm, ...]
    levels: NoiseLevels
    fake_levels: NoiseLevels
    guidance: GuidanceScales = dataclasses.field(default_factory=GuidanceScales)
    discriminator_weight: float = 1.0
    r1: Penalty | None = None
    calibration: Calibration | None = None
    """Counts how often the discriminator is right; nothing is trained with it."""
    annealing: Annealing | None = None
    """Change of `levels` in the course of the run."""
    real_data: RealData | None = None
    """Real data in the fake score's loss; None trains it on student samples alone."""
    ratio_start_step: int = 0
    """Step of the run from which the density ratio counts; before, it is 1."""

    def at(self, step: int) -> ActiveParts:
        """Return the parts that count at this step."""
        terms = tuple(weighted for weighted in self.terms if weighted.settings.counts_at(step))
        weights = tuple(weighted.settings.weight_at(step) for weighted in terms)
        levels = self.levels if self.annealing is None else self.annealing.at(step, self.levels)
        return ActiveParts(terms, weights, step >= self.ratio_start_step, levels)

    def within(self, steps: int) -> ActiveParts:
        """Return together the parts that count at some of the first `steps` steps, at their full weights."""
        terms = tuple(weighted for weighted in self.terms if weighted.settings.start_step < steps)
        weights = tuple(weighted.settings.weight for weighted in terms)
        return ActiveParts(terms, weights, self.ratio_start_step < steps, self.levels)
