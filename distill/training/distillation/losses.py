"""The losses of one batch: of fake score and discriminator, and of the generator. Pure functions without
optimisers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.diffusion.guidance import guided
from distill.diffusion.guidance_scales import GuidanceScales
from distill.diffusion.noise_levels import NoiseLevels
from distill.objectives.calibration import Calibration
from distill.objectives.density_ratio import BatchLossRatio, DensityRatio
from distill.objectives.gradient_penalty import GradientPenalty
from distill.objectives.term import Term, TermInputs, TermSettings
from distill.training.batches import Batch, Noise
from distill.types import (
    Condition,
    Critic,
    Denoiser,
    Features,
    Generator,
    Objective,
    Prediction,
    Scores,
    expand_like,
    per_sample,
)


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a distillation. The discriminator reads the features of the teacher or of the fake
    score."""

    teacher: Denoiser
    fake: Denoiser
    generator: Generator
    discriminator: Critic | None = None

    def read_by(self, discriminator: Critic) -> Denoiser:
        """Return the network whose features the discriminator reads."""
        return self.teacher if discriminator.reads == "teacher" else self.fake

    def predict(
        self,
        network: Denoiser,
        x_t: Tensor,
        t: Tensor,
        cond: Condition,
        scale: float,
        with_both_sides: bool = False,
    ) -> Prediction:
        """Return a network's guided prediction, with the discriminator's logits if it reads this network."""
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
class Method:
    """Everything that a run minimises: the objective, the terms added to it, and the noise levels of each
    update."""

    objective: Objective
    needs_graph: bool
    """Whether the objective differentiates teacher and fake score with respect to their inputs."""
    objective_weight: float
    ratio: DensityRatio | BatchLossRatio | None
    terms: tuple[WeightedTerm, ...]
    levels: NoiseLevels
    fake_levels: NoiseLevels
    guidance: GuidanceScales = dataclasses.field(default_factory=GuidanceScales)
    discriminator_weight: float = 1.0
    r1: GradientPenalty | None = None
    calibration: Calibration | None = None
    """Counts how often the discriminator is right; nothing is trained with it."""
    ratio_start_step: int = 0
    """Generator step from which the density ratio counts; before, it is 1."""

    def terms_at(self, step: int) -> tuple[WeightedTerm, ...]:
        """Return the terms that count at this step."""
        return tuple(weighted for weighted in self.terms if step >= weighted.settings.start_step)


Losses = dict[str, Tensor]
"""Weighted losses by name, scalars with a graph; their sum is minimised."""
Metrics = dict[str, Tensor]
"""Detached scalars to log."""


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode and freeze their parameters inside the block; their inputs may still
    need gradients."""
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
    networks: Networks, levels: NoiseLevels, x0: Tensor, noise: Noise
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Add noise to x0 at the quantiles `noise.u`: returns x_t, t, alpha and sigma; the last two broadcast
    against x0."""
    schedule = networks.teacher.schedule
    t = levels.t(noise.u, schedule)
    alpha, sigma = expand_like(schedule.alpha(t), x0), expand_like(schedule.sigma(t), x0)
    return alpha * x0 + sigma * noise.eps, t, alpha, sigma


def fake_loss(
    networks: Networks, method: Method, batch: Batch, x0: Tensor, detailed: bool = False
) -> tuple[Losses, Metrics]:
    """Return the denoising loss of the fake score on student samples x0 (b, ...), and the discriminator's
    loss, if there is one.

    The squared error is weighted as the network's own training target implies. `detailed` adds metrics that
    compare the discriminator with the exact log-ratio, if that is known.
    """
    x0 = x0.detach()
    noise = Noise(batch.u_fake, batch.eps_fake)
    x_t, t, _, _ = add_noise(networks, method.fake_levels, x0, noise)
    prediction = networks.predict(networks.fake, x_t, t, batch.cond, method.guidance.fake_training)
    weight = expand_like(networks.fake.target_weight(t), x0)
    losses = {"fake": (weight * (prediction.x0 - x0).square()).mean()}
    if networks.discriminator is None or batch.real is None:
        return losses, {}

    logits = prediction.logits
    if batch.discriminator_noise is not None:
        x_t, t, _, _ = add_noise(networks, method.fake_levels, x0, batch.discriminator_noise)
        logits = None
    if logits is None:
        logits = networks.logits(networks.discriminator, x_t, t, batch.cond)
    more, real_logits = _real_losses(networks, method, batch, networks.discriminator, batch.real)
    losses |= more
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
        if detailed:
            metrics |= method.calibration.compare(per_sample(logits), x_t, t, batch.cond)
    return losses, metrics


def _real_losses(
    networks: Networks, method: Method, batch: Batch, discriminator: Critic, real: Tensor
) -> tuple[Losses, Tensor]:
    """Return the gradient penalty on real images, if there is one, and the discriminator's logits of them.

    The discriminator tells real images from student samples by binary cross-entropy, both with noise of the
    same levels and under the same conditions, so that its logit tends to log p_t/q_t.
    """
    noise = batch.real_noise or Noise(batch.u_fake, batch.eps_real)
    x_t, t, _, _ = add_noise(networks, method.fake_levels, real, noise)
    if method.r1 is None:
        return {}, networks.logits(discriminator, x_t, t, batch.cond)
    features = partial(networks.features, discriminator, t=t, cond=batch.cond)
    # eps adds noise to no image in this update, so it can serve as the random direction of the penalty
    logits, penalty = method.r1(features, discriminator, x_t, batch.eps)
    return {"r1": method.discriminator_weight * penalty.mean()}, logits


def generator_loss(
    networks: Networks, method: Method, batch: Batch, x0: Tensor, step: int
) -> tuple[Losses, Metrics]:
    """Return the objective per image dimension and the weighted terms, on student samples x0 (b, ...) with
    their graph.

    Teacher and fake score must be frozen. They record no graph unless the objective, or a term that
    differentiates the discriminator's logits, needs one.
    """
    noise = Noise(batch.u, batch.eps)
    x_t, t, alpha, sigma = add_noise(networks, method.levels, x0, noise)
    terms = method.terms_at(step)
    read = None
    if networks.discriminator is not None and any(term.settings.differentiates_logits for term in terms):
        read = networks.read_by(networks.discriminator)

    def predict(network: Denoiser, scale: float, with_both_sides: bool = False) -> Prediction:
        with torch.set_grad_enabled(method.needs_graph or network is read):
            prediction = networks.predict(network, x_t, t, batch.cond, scale, with_both_sides)
        # The objective's part of the graph is released at once if nothing will differentiate it.
        return prediction if method.needs_graph else prediction._replace(x0=prediction.x0.detach())

    needs_both_sides = any(term.settings.needs_both_sides for term in terms)
    teacher = predict(networks.teacher, method.guidance.teacher, needs_both_sides)
    fake = predict(networks.fake, method.guidance.fake)
    logits = fake.logits if teacher.logits is None else teacher.logits

    log_ratio, ratio_scale, ratio_metrics = _weigh_by_ratio(method, batch, x0, logits, step)
    scores = Scores(x0, x_t, alpha, sigma, teacher.x0, fake.x0, log_ratio)
    output = method.objective(scores)
    scale = method.objective_weight * ratio_scale
    losses = {"objective": scale * output.loss.mean() / x0[0].numel()}
    metrics = {name: value.mean() for name, value in output.metrics.items()}
    inputs = TermInputs(
        scores, batch.cond, networks.generator, teacher, logits, batch.pairs, batch.crop_positions
    )
    for weighted in terms:
        settings, read_inputs = weighted.settings, inputs
        if settings.adds_own_noise:
            own_logits = _logits_under_own_noise(networks, method, batch, x0)
            read_inputs = dataclasses.replace(inputs, logits=own_logits)
        term = weighted.term(read_inputs)
        losses[settings.name] = settings.weight_at(step) * term.loss.mean()
        metrics |= {f"{settings.name}/{name}": value.mean() for name, value in term.metrics.items()}
    return losses, metrics | ratio_metrics


def _weigh_by_ratio(
    method: Method, batch: Batch, x0: Tensor, logits: Tensor | None, step: int
) -> tuple[Tensor, Tensor | float, Metrics]:
    """Return the log-ratio of each sample, (b,), the scale of the objective's weights, and metrics of the
    ratio."""
    ratio, counts = method.ratio, step >= method.ratio_start_step
    log_ratio = x0.new_zeros(len(x0))
    if ratio is None:
        return log_ratio, 1.0, {}
    if logits is not None:
        # The running means are kept from the first step on, before the ratio counts.
        ratio.observe(logits, batch.u)
        if counts:
            log_ratio = ratio(logits, batch.u, x0[0].numel())
    metrics = {
        "ratio/log_ratio_mean": log_ratio.mean(),
        "ratio/log_ratio_std": log_ratio.std(correction=0),
        "ratio/scale": ratio.scale,
    }
    return log_ratio, ratio.scale if counts else ratio.scale_of_one, metrics


def _logits_under_own_noise(networks: Networks, method: Method, batch: Batch, x0: Tensor) -> Tensor:
    """Return the discriminator's logits, with a graph to x0 (b, ...), under `batch.gan_noise` at the levels
    of its training."""
    discriminator, noise = networks.discriminator, batch.gan_noise
    if discriminator is None or noise is None:
        raise ValueError("terms: gan with own_noise needs a discriminator and noise for it")
    x_t, t, _, _ = add_noise(networks, method.fake_levels, x0, noise)
    return networks.logits(discriminator, x_t, t, batch.cond)
