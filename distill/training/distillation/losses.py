"""The losses of one batch: the fake score's and discriminator's, and the generator's. Pure: no optimiser, no accelerate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.diffusion.guidance import CFGPrediction, Guidance, guided
from distill.diffusion.noise_levels import NoiseLevels
from distill.objectives.calibration import Calibration
from distill.objectives.density_ratio import BatchLossRatio, DensityRatio
from distill.objectives.gradient_penalty import GradientPenalty
from distill.objectives.term import Term, TermInputs
from distill.training.batches import Batch, Noise
from distill.types import (
    Condition,
    Critic,
    Denoiser,
    Features,
    Generator,
    Objective,
    Scores,
    expand_like,
    per_sample,
)


class Prediction(NamedTuple):
    """Of one network, at x_t: a guided x_0, logits if the discriminator reads that network, and both sides, constants, where they were looked at."""

    x0: Tensor
    logits: Tensor | None
    sides: CFGPrediction | None


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a distillation. The discriminator reads the features of `teacher` or `fake`."""

    teacher: Denoiser
    fake: Denoiser
    generator: Generator
    discriminator: Critic | None = None

    def predict(
        self, name: str, x_t: Tensor, t: Tensor, cond: Condition, guidance: float, both_sides: bool = False
    ) -> Prediction:
        """What the network of that name makes of x_t."""
        discriminator = (
            self.discriminator
            if self.discriminator is not None and self.discriminator.reads == name
            else None
        )
        found = guided(
            getattr(self, name),
            x_t,
            t,
            cond,
            guidance,
            discriminator.depths if discriminator else (),
            both_sides,
        )
        # Under mixed precision the networks answer in less than the losses are computed in.
        logits = discriminator(found.features).to(x_t.dtype) if discriminator else None
        sides = (
            None
            if found.sides is None
            else CFGPrediction(*(side.detach().to(x_t.dtype) for side in found.sides))
        )
        return Prediction(found.x0.to(x_t.dtype), logits, sides)

    def features(self, discriminator: Critic, x_t: Tensor, t: Tensor, cond: Condition) -> Features:
        """What the discriminator reads."""
        return getattr(self, discriminator.reads).features(x_t, t, cond, discriminator.depths)

    def logits(self, discriminator: Critic, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The discriminator's logits alone, (b,), or (b, n) for n positions."""
        return discriminator(self.features(discriminator, x_t, t, cond)).to(x_t.dtype)


@dataclasses.dataclass(frozen=True)
class WeightedTerm:
    """A term of the generator's loss under its name in the config."""

    name: str
    term: Term
    weight: float
    start_step: int
    needs_discriminator: bool
    needs_sides: bool = False
    warmup_steps: int = 0
    noises_anew: bool = False
    """The discriminator sees the sample under `Batch.gan_noise`."""

    @property
    def differentiates_logits(self) -> bool:
        """Its gradient flows through the logits at x_t."""
        return self.needs_discriminator and not self.noises_anew

    def weight_at(self, step: int) -> float:
        """Its weight at a step from `start_step` on."""
        return self.weight * min(1.0, (step - self.start_step + 1) / (self.warmup_steps + 1))


@dataclasses.dataclass(frozen=True)
class Method:
    """What a run minimises: the objective, the terms added to it, and where in the noise each network learns."""

    objective: Objective
    needs_graph: bool
    """The objective differentiates the two networks with respect to their inputs."""
    objective_weight: float
    ratio: DensityRatio | BatchLossRatio | None
    terms: tuple[WeightedTerm, ...]
    levels: NoiseLevels
    fake_levels: NoiseLevels
    guidance: Guidance = dataclasses.field(default_factory=Guidance)
    discriminator_weight: float = 1.0
    r1: GradientPenalty | None = None
    calibration: Calibration | None = None
    """Counts the discriminator's verdicts; nothing is learned from it."""
    ratio_start_step: int = 0
    """Generator step from which the ratio counts; before, it is 1."""

    def terms_at(self, step: int) -> tuple[WeightedTerm, ...]:
        """The terms that count at this step."""
        return tuple(term for term in self.terms if step >= term.start_step)


Losses = dict[str, Tensor]
"""Weighted losses by name, scalars with a graph; their sum is minimised."""
Metrics = dict[str, Tensor]
"""Detached scalars to log."""


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Within, the networks are in evaluation mode and their parameters need no gradient; their inputs still may."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    trained = [
        parameter for network in networks for parameter in network.parameters() if parameter.requires_grad
    ]
    for network in networks:
        network.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)


def add_noise(
    networks: Networks, levels: NoiseLevels, x0: Tensor, u: Tensor, eps: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noise x0 to the quantiles u: (x_t, t, alpha, sigma), the last two broadcasting against x0."""
    schedule = networks.teacher.schedule
    t = levels.t(u, schedule)
    alpha, sigma = expand_like(schedule.alpha(t), x0), expand_like(schedule.sigma(t), x0)
    return alpha * x0 + sigma * eps, t, alpha, sigma


def fake_loss(
    networks: Networks, method: Method, batch: Batch, x0: Tensor, detailed: bool = False
) -> tuple[Losses, Metrics]:
    """Denoising score matching on student samples x0 (b, ...), and the discriminator's loss, with its gradient penalty, if there is one.

    The score is weighted as the network's own prediction target implies. The discriminator tells real images from student samples, both noised
    to the same levels and under the same conditions, by binary cross-entropy, so that its logit tends to log p_t/q_t. `detailed` compares it with
    the exact one where that is known.
    """
    x0 = x0.detach()
    x_t, t, _, _ = add_noise(networks, method.fake_levels, x0, batch.u_fake, batch.eps_fake)
    prediction, logits, _ = networks.predict("fake", x_t, t, batch.cond, method.guidance.fake_training)
    weight = expand_like(networks.fake.target_weight(t), x0)
    losses = {"fake": (weight * (prediction - x0).square()).mean()}
    discriminator, real = networks.discriminator, batch.real
    if discriminator is None or real is None:
        return losses, {}

    if batch.discriminator_noise is not None:
        x_t, t, _, _ = add_noise(
            networks, method.fake_levels, x0, batch.discriminator_noise.u, batch.discriminator_noise.eps
        )
        logits = None
    if logits is None:
        logits = networks.logits(discriminator, x_t, t, batch.cond)
    real_noise = batch.real_noise or Noise(batch.u_fake, batch.eps_real)
    real_t, t_real, _, _ = add_noise(networks, method.fake_levels, real, real_noise.u, real_noise.eps)
    if method.r1 is None:
        real_logits = networks.logits(discriminator, real_t, t_real, batch.cond)
    else:
        features = partial(networks.features, discriminator, t=t_real, cond=batch.cond)
        real_logits, penalty = method.r1(
            features, discriminator, real_t, batch.eps
        )  # eps noises no image here: it is free to be the direction
        losses["r1"] = method.discriminator_weight * penalty.mean()
    losses["discriminator"] = (
        method.discriminator_weight * (F.softplus(logits) + F.softplus(-real_logits)).mean()
    )
    metrics = {
        "discriminator/accuracy": torch.cat([logits < 0, real_logits > 0]).float().mean(),
        "discriminator/logit_real": real_logits.detach().mean(),
        "discriminator/logit_fake": logits.detach().mean(),
    }
    if method.calibration is not None:
        method.calibration.add(per_sample(real_logits), per_sample(logits))
        metrics |= method.calibration.compare(per_sample(logits), x_t, t, batch.cond) if detailed else {}
    return losses, metrics


def generator_loss(
    networks: Networks, method: Method, batch: Batch, x0: Tensor, step: int
) -> tuple[Losses, Metrics]:
    """The objective per image dimension plus the weighted terms, on student samples x0 (b, ...) with their graph.

    Both denoisers are to be frozen. They run without a graph unless the objective, or a term that reads the discriminator's logits, needs one.
    """
    x_t, t, alpha, sigma = add_noise(networks, method.levels, x0, batch.u, batch.eps)
    terms = method.terms_at(step)
    reads = (
        networks.discriminator.reads
        if networks.discriminator and any(weighted.differentiates_logits for weighted in terms)
        else None
    )
    both_sides = ("teacher",) if any(weighted.needs_sides for weighted in terms) else ()
    seen: dict[str, Prediction] = {}
    for name in ("teacher", "fake"):
        with torch.set_grad_enabled(method.needs_graph or reads == name):
            prediction = networks.predict(
                name, x_t, t, batch.cond, getattr(method.guidance, name), name in both_sides
            )
        # A decoder's graph that nothing will differentiate is let go at once.
        seen[name] = prediction if method.needs_graph else prediction._replace(x0=prediction.x0.detach())

    logits = next((prediction.logits for prediction in seen.values() if prediction.logits is not None), None)
    ratio, counts = method.ratio, step >= method.ratio_start_step
    log_ratio = x0.new_zeros(len(x0))
    if ratio is not None and logits is not None:
        found = ratio(logits, batch.u, x0[0].numel())
        log_ratio = found if counts else log_ratio
    scores = Scores(x0, x_t, alpha, sigma, seen["teacher"].x0, seen["fake"].x0, log_ratio)
    output = method.objective(scores)
    ratio_scale = 1.0 if ratio is None else ratio.scale if counts else ratio.scale_of_one
    scale = method.objective_weight * ratio_scale
    losses = {"objective": scale * output.loss.mean() / x0[0].numel()}
    metrics = {name: value.mean() for name, value in output.metrics.items()}
    student = TermInputs(
        scores,
        batch.cond,
        logits,
        networks.generator,
        batch.pairs,
        seen["teacher"].sides,
        batch.crop_positions,
    )
    for weighted in terms:
        seen_by = student
        if weighted.noises_anew:
            seen_by = dataclasses.replace(student, logits=_logits_of_own_noise(networks, method, batch, x0))
        term = weighted.term(seen_by)
        losses[weighted.name] = weighted.weight_at(step) * term.loss.mean()
        metrics |= {f"{weighted.name}/{name}": value.mean() for name, value in term.metrics.items()}
    if ratio is not None:
        metrics |= {
            "ratio/log_ratio_mean": log_ratio.mean(),
            "ratio/log_ratio_std": log_ratio.std(correction=0),
            "ratio/scale": ratio.scale,
        }
    return losses, metrics


def _logits_of_own_noise(networks: Networks, method: Method, batch: Batch, x0: Tensor) -> Tensor:
    """The discriminator's logits, with a graph to x0 (b, ...), under `batch.gan_noise` at the levels that it learns at."""
    discriminator, noise = networks.discriminator, batch.gan_noise
    if discriminator is None or noise is None:
        raise ValueError("terms: gan with own_noise needs a discriminator and noise for it")
    x_t, t, _, _ = add_noise(networks, method.fake_levels, x0, noise.u, noise.eps)
    return networks.logits(discriminator, x_t, t, batch.cond)
