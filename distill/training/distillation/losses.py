"""The losses of one batch: of fake score and discriminator, and of the generator.

They are pure functions, without optimisers and without processes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.diffusion.guidance import guided
from distill.diffusion.noise_levels import NoiseLevels, t_below
from distill.objectives.gradients.real_data import denoising_loss, deviation
from distill.objectives.real_data import RealData
from distill.objectives.term import TermInputs, TermSettings
from distill.training.batches import Batch, Noise
from distill.training.distillation.method import ActiveParts, Method, Networks
from distill.training.logging import as_mean_and_std
from distill.types import (
    Critic,
    Denoiser,
    Features,
    NoiseSchedule,
    Prediction,
    Scores,
    expand_like,
    per_sample,
)

Losses = dict[str, Tensor]
"""Weighted losses by name, scalars with a graph; their sum is minimised."""
Metrics = dict[str, Tensor]
"""Detached scalars to log."""


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Freeze networks in evaluation mode inside the block; their inputs may still need gradients."""
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
    schedule: NoiseSchedule,
    levels: NoiseLevels,
    x0: Tensor,
    noise: Noise,
    limit: float | Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Add noise to x0 at the quantiles `noise.u`, and return x_t, t, alpha and sigma.

    alpha and sigma broadcast against x0. The quantiles are those of the levels up to the time `limit`.
    """
    t = levels.t(noise.u, schedule) if limit is None else t_below(levels, noise.u, limit, schedule)
    alpha, sigma = expand_like(schedule.alpha(t), x0), expand_like(schedule.sigma(t), x0)
    return alpha * x0 + sigma * noise.eps, t, alpha, sigma


def fake_loss(
    networks: Networks, method: Method, batch: Batch, x0: Tensor, detailed: bool = False
) -> tuple[Losses, Metrics]:
    """Return the losses of the fake score and of the discriminator on student samples x0 (b, ...).

    The fake score's is the squared error of denoising, weighted as the network's own training target implies,
    with real data in it if the method has them. `detailed` adds metrics that compare the discriminator with
    the exact log-ratio, if that is known.
    """
    x0 = x0.detach()
    x_t, t, alpha, sigma = add_noise(networks.teacher.schedule, method.fake_levels, x0, batch.fake_noise)
    prediction = networks.predict(networks.fake, x0, x_t, t, batch.cond, method.guidance.fake_training)
    weight = expand_like(networks.fake.target_weight(t), x0)
    if method.real_data is None:
        losses = {"fake": (weight * (prediction.x0 - x0).square()).mean()}
    else:
        denoised = Denoised(x0, x_t, t, alpha, sigma, prediction.x0)
        losses = _fake_losses_with_data(networks, method, batch, method.real_data, denoised)
    if networks.discriminator is None or batch.real is None:
        return losses, {}

    logits = prediction.logits
    if batch.discriminator_noise is not None:
        x_t, t, _, _ = add_noise(networks.teacher.schedule, method.fake_levels, x0, batch.discriminator_noise)
        logits = None
    student = Noised(x_t, t, logits)
    more, metrics, logits = discriminator_loss(networks, method, batch, networks.discriminator, student)
    if method.calibration is not None and detailed:
        metrics |= method.calibration.compare(per_sample(logits), x_t, t, batch.cond)
    return losses | more, metrics


class Denoised(NamedTuple):
    """Samples x_0 with noise of level t, x_t, and the fake score's prediction of them; all (b, ...)."""

    x0: Tensor
    x_t: Tensor
    t: Tensor
    """(b,)."""
    alpha: Tensor
    sigma: Tensor
    """Like alpha (b, 1, ...)."""
    prediction: Tensor


def _fake_losses_with_data(
    networks: Networks, method: Method, batch: Batch, mix: RealData, student: Denoised
) -> Losses:
    """Return the fake score's losses on student samples and on real images under the same conditions.

    Their sum is RealUID's loss of the fake score but for a constant, so it may be negative.
    """
    real = batch.real
    if real is None:
        raise ValueError("objective.real_data needs real images")
    noised = add_noise(networks.teacher.schedule, method.fake_levels, real, batch.noise_of_real)
    x_t, t = noised[:2]
    prediction = networks.predict(networks.fake, real, x_t, t, batch.cond, method.guidance.fake_training)
    data = Denoised(real, *noised, prediction.x0)

    def loss(of: Denoised, share: float, excess: float) -> Tensor:
        origin = of.x0 - deviation(mix.target, of.x0, of.x_t, of.alpha, of.sigma)
        weight = expand_like(networks.fake.target_weight(of.t), of.x0)
        return (weight * denoising_loss(of.prediction, of.x0, origin, share, excess)).mean()

    excess = mix.alpha - mix.beta
    return {"fake": loss(student, mix.alpha, excess), "fake_on_data": loss(data, 1 - mix.alpha, -excess)}


class Noised(NamedTuple):
    """Samples at x_t, (b, ...), and t, (b,), and the discriminator's logits of them if they are known."""

    x_t: Tensor
    t: Tensor
    logits: Tensor | None = None


def discriminator_loss(
    networks: Networks, method: Method, batch: Batch, discriminator: Critic, student: Noised
) -> tuple[Losses, Metrics, Tensor]:
    """Return the cross-entropy of real images and student samples, and the gradient penalty if there is one.

    Metrics follow, and the logits of the student samples. Both sides get noise of the same levels and the
    same conditions, so that the logit tends to log p_t/q_t.
    """
    real = batch.real
    if real is None:
        raise ValueError("a discriminator needs real images")
    x_t, t, _, _ = add_noise(networks.teacher.schedule, method.fake_levels, real, batch.noise_of_real)
    losses: Losses = {}
    logits = student.logits
    if logits is None and method.r1 is None:
        both = torch.cat([student.x_t, x_t]), torch.cat([student.t, t])
        logits, real_logits = networks.logits(discriminator, *both, batch.cond.twice()).chunk(2)
    else:
        if logits is None:
            logits = networks.logits(discriminator, student.x_t, student.t, batch.cond)
        real_logits, penalty = _logits_of_real(networks, method, batch, discriminator, Noised(x_t, t))
        if penalty is not None:
            losses["r1"] = method.discriminator_weight * penalty.mean()
    cross_entropy = (F.softplus(logits) + F.softplus(-real_logits)).mean()
    losses["discriminator"] = method.discriminator_weight * cross_entropy
    if method.calibration is not None:
        method.calibration.add(per_sample(real_logits), per_sample(logits))
    metrics = {
        "discriminator/accuracy": torch.cat([logits < 0, real_logits > 0]).float().mean(),
        "discriminator/logit_real": real_logits.detach().mean(),
        "discriminator/logit_fake": logits.detach().mean(),
    }
    return losses, metrics, logits


def _logits_of_real(
    networks: Networks, method: Method, batch: Batch, discriminator: Critic, real: Noised
) -> tuple[Tensor, Tensor | None]:
    """Return the logits of real images, and the gradient penalty of each if there is one."""
    if method.r1 is None:
        return networks.logits(discriminator, real.x_t, real.t, batch.cond), None

    def features(x_t: Tensor) -> Features:
        if len(x_t) == len(real.t):
            return networks.features(discriminator, x_t, real.t, batch.cond)
        return networks.features(discriminator, x_t, torch.cat([real.t, real.t]), batch.cond.twice())

    # eps adds noise to nothing in this update, so it can be the random direction of the penalty
    return method.r1(features, discriminator, real.x_t, batch.eps)


def generator_loss(
    networks: Networks, method: Method, batch: Batch, x0: Tensor, active: ActiveParts
) -> tuple[Losses, Metrics]:
    """Return the objective per image dimension and the weighted terms, on student samples x0 with a graph.

    Teacher and fake score must be frozen. They record no graph unless the objective, or a term that
    differentiates the discriminator's logits, needs one.
    """
    x_t, t, alpha, sigma = add_noise(networks.teacher.schedule, active.levels, x0, batch.noise)
    differentiated = None
    if networks.discriminator is not None and any(
        term.settings.differentiates_logits for term in active.terms
    ):
        differentiated = networks.read_by(networks.discriminator)

    def predict(network: Denoiser, scale: float, with_both_sides: bool = False) -> Prediction:
        with torch.set_grad_enabled(method.needs_graph or network is differentiated):
            prediction = networks.predict(network, x0, x_t, t, batch.cond, scale, with_both_sides)
        # The objective's part of the graph is released at once if nothing will differentiate it.
        return prediction if method.needs_graph else prediction._replace(x0=prediction.x0.detach())

    needs_both_sides = any(term.settings.reads_both_sides for term in active.terms)
    teacher = predict(networks.teacher, method.guidance.teacher, needs_both_sides)
    fake = predict(networks.fake, method.guidance.fake)
    logits = fake.logits if teacher.logits is None else teacher.logits

    log_ratio, ratio_scale, ratio_metrics = _weigh_by_ratio(method, batch, x0, logits, active.uses_ratio)
    scores = Scores(x0, x_t, alpha, sigma, teacher.x0, fake.x0, log_ratio)
    output = method.objective(scores)
    scale = method.objective_weight * ratio_scale
    losses = {"objective": scale * output.loss.mean() / x0[0].numel()}
    metrics = {name: value.mean() for name, value in output.metrics.items()}
    inputs = TermInputs(
        scores, batch.cond, networks.generator, teacher, logits, batch.pairs, batch.crop_positions, batch.z
    )
    for weighted, weight in zip(active.terms, active.weights, strict=True):
        settings, term_inputs = weighted.settings, inputs
        if settings.adds_own_noise:
            term_inputs = _under_own_noise(networks, method, batch, inputs, settings)
        term = weighted.term(term_inputs)
        losses[settings.name] = weight * term.loss.mean()
        metrics |= {f"{settings.name}/{name}": value.mean() for name, value in term.metrics.items()}
    return losses, metrics | ratio_metrics


def _weigh_by_ratio(
    method: Method, batch: Batch, x0: Tensor, logits: Tensor | None, counts: bool
) -> tuple[Tensor, Tensor | float, Metrics]:
    """Return each sample's log-ratio, (b,), the scale of the objective's weights, and metrics."""
    ratio = method.ratio
    log_ratio = x0.new_zeros(len(x0))
    if ratio is None:
        return log_ratio, 1.0, {}
    if logits is not None:
        # The running means are kept from the first update of the generator on, before the ratio counts.
        ratio.observe(logits, batch.u)
        if counts:
            log_ratio = ratio(logits, batch.u, x0[0].numel())
    scale: Tensor | float = ratio.scale if counts else ratio.scale_of_one
    metrics = as_mean_and_std("ratio/log_ratio", log_ratio)
    return log_ratio, scale, {**metrics, "ratio/scale": scale * torch.ones_like(ratio.scale)}


def _under_own_noise(
    networks: Networks, method: Method, batch: Batch, inputs: TermInputs, settings: TermSettings
) -> TermInputs:
    """Return what a term reads under the noise that it adds by itself, the rest as it is in `inputs`.

    It is the discriminator's logits with a graph to x0, or x_t and the teacher's predictions without a graph.
    """
    x0, levels = inputs.scores.x0, settings.own_noise_levels or method.fake_levels
    limit = networks.generator.resumed_at(*batch.generator_inputs) if settings.stays_below_step else None
    x_t, t, alpha, sigma = add_noise(
        networks.teacher.schedule, levels, x0, batch.noise_of_term(settings.name), limit
    )
    if settings.needs_both_sides:
        with torch.no_grad():
            teacher = guided(networks.teacher, x_t, t, batch.cond, 1.0, with_both_sides=True)
        scores = dataclasses.replace(inputs.scores, x_t=x_t, alpha=alpha, sigma=sigma, teacher=teacher.x0)
        inputs = dataclasses.replace(inputs, scores=scores, teacher=teacher)
    if settings.needs_discriminator:
        if networks.discriminator is None:
            raise ValueError(f"terms: {settings.name} needs a discriminator")
        logits = networks.logits(networks.discriminator, x_t, t, batch.cond)
        inputs = dataclasses.replace(inputs, logits=logits)
    return inputs
