"""RealUID against the value of its game, computed from densities, and against its authors' losses.

The data are the teacher's Gaussian, so that the fake score that wins the game is known at every x_t.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from distill.diffusion.prediction_types import PredictionType
from distill.objectives import score_matching
from distill.objectives.gradients.real_data import denoising_loss, deviation
from distill.objectives.real_data import RealData
from tests.helpers.closed_form import (
    LEVELS,
    Mixture,
    assert_near,
    draw,
    gaussian,
    observe,
    observe_images,
    tensor,
    turned_nodes,
)
from tests.helpers.predictions import from_x0

DATA = gaussian(tensor(0.4), tensor(0.7))
STUDENT = tensor([0.1, 0.9])
MIXES = [(1.0, 1.0), (0.6, 0.6), (0.95, 0.97), (0.9, 0.8), (1.0, 0.9)]
TARGETS: list[PredictionType] = ["sample", "flow_prediction", "v_prediction", "epsilon"]


def winner(student: Mixture, x_t: Tensor, alpha: Tensor, sigma: Tensor, real: RealData) -> Tensor:
    """Return the prediction of the fake score that wins the game against a student."""
    q, p = (one.log_density(x_t, alpha, sigma).exp() for one in (student, DATA))
    origin = x_t - deviation(real.target, x_t, x_t, alpha, sigma)
    of_q, of_p = (one.prediction(x_t, alpha, sigma) - origin for one in (student, DATA))
    mixed = real.beta * q * of_q + (1 - real.beta) * p * of_p
    return origin + mixed / (real.alpha * q + (1 - real.alpha) * p)


def game_value(parameters: Tensor, alpha: Tensor, sigma: Tensor, real: RealData) -> Tensor:
    """Return int (alpha q + (1 - alpha) p) (D_p - f)^2 dx, the game's value for a student (mean, std)."""
    student = gaussian(*parameters)
    x = torch.linspace(-10, 10, 4001, dtype=torch.float64)
    alpha, sigma = alpha.expand_as(x), sigma.expand_as(x)
    q, p = (one.log_density(x, alpha, sigma).exp() for one in (student, DATA))
    gap = DATA.prediction(x, alpha, sigma) - winner(student, x, alpha, sigma, real)
    return ((real.alpha * q + (1 - real.alpha) * p) * gap.square()).sum() * (x[1] - x[0])


def engine_gradient(
    parameters: Tensor, alpha: Tensor, sigma: Tensor, real: RealData | None, sid_alpha: float = 0.5
) -> Tensor:
    """Return the gradient of the student's loss with respect to its (mean, std)."""
    z, eps, weight = turned_nodes(parameters[1], alpha, sigma)
    moved = parameters.clone().requires_grad_()
    x0 = moved[0] + moved[1] * z.reshape(-1, 1)
    levels = [level.expand(z.numel(), 1) for level in (alpha, sigma)]
    scores = observe(x0, eps.reshape(-1, 1), *levels, DATA, gaussian(*moved))
    if real is not None:
        fake = winner(gaussian(*parameters), scores.x_t, *levels, real)
        scores = dataclasses.replace(scores, fake=fake)
    loss = score_matching(scores, alpha=sid_alpha, weighting="prediction", real_data=real).loss
    return torch.autograd.grad((weight.reshape(-1) * loss).sum(), moved)[0]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("share", "beta"), MIXES)
def test_the_gradient_is_that_of_the_game_s_value(
    level: str, target: PredictionType, share: float, beta: float
) -> None:
    alpha, sigma = map(tensor, LEVELS[level])
    real = RealData(alpha=share, beta=beta, target=target)
    parameters = STUDENT.clone().requires_grad_()
    value = game_value(parameters, alpha, sigma, real)
    expected = torch.autograd.grad(value, parameters)[0]
    assert value > 1e-4
    assert expected.abs().min() > 1e-4
    assert_near(engine_gradient(STUDENT, alpha, sigma, real), expected, 1e-8)


@pytest.mark.parametrize(("share", "beta"), MIXES)
def test_value_and_gradient_vanish_at_the_data_and_nowhere_near(share: float, beta: float) -> None:
    """Any change of mean or std gives a positive value, and a gradient that leads back to the data."""
    alpha, sigma = map(tensor, LEVELS["flow-early"])
    real = RealData(alpha=share, beta=beta)
    optimum = tensor([0.4, 0.7])
    assert game_value(optimum, alpha, sigma, real) < 1e-20
    assert engine_gradient(optimum, alpha, sigma, real).abs().max() < 1e-12
    for change in ([0.1, 0.0], [-0.1, 0.0], [0.0, 0.1], [0.0, -0.1], [0.05, -0.05]):
        moved = optimum + tensor(change)
        assert game_value(moved, alpha, sigma, real) > 1e-5
        assert (engine_gradient(moved, alpha, sigma, real) * tensor(change)).sum() > 1e-4


@pytest.mark.parametrize("sid_alpha", [0.5, 1.0, 1.2])
@pytest.mark.parametrize("weighting", ["score", "prediction", "dmd"])
def test_without_data_it_is_score_matching_to_the_last_bit(sid_alpha: float, weighting: str) -> None:
    scores = observe_images(*draw(7))
    plain = score_matching(scores, alpha=sid_alpha, weighting=weighting).loss
    real = RealData(alpha=1.0, beta=1.0)
    assert torch.equal(
        score_matching(scores, alpha=sid_alpha, weighting=weighting, real_data=real).loss, plain
    )


@pytest.mark.parametrize("target", TARGETS)
def test_the_student_s_loss_is_the_authors(target: PredictionType) -> None:
    """Both forms are written in x_0: alpha (|p' - (beta/alpha) x_0'|^2 - |f' - (beta/alpha) x_0'|^2)."""
    scores = observe_images(*draw(7))
    real = RealData(alpha=0.9, beta=0.8, target=target)
    origin = scores.x0 - deviation(target, scores.x0, scores.x_t, scores.alpha, scores.sigma)
    scaled = real.beta / real.alpha * (scores.x0 - origin)
    errors = [(one - origin - scaled).square().sum(dim=[1, 2, 3]) for one in (scores.teacher, scores.fake)]
    loss = score_matching(scores, alpha=0.5, weighting="prediction", real_data=real).loss
    torch.testing.assert_close(loss, real.alpha * (errors[0] - errors[1]), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("share", [0.9, 1.0])
def test_the_fake_score_s_gradient_is_that_of_the_authors_form(share: float) -> None:
    """With alpha = 1 the data's part is linear, -2 (1 - beta) f' x_0', which their code spells out."""
    beta = 0.8
    random = torch.Generator().manual_seed(0)
    x0, data, origin, data_origin, f, f_data = torch.randn(6, 5, 3, generator=random, dtype=torch.float64)
    f.requires_grad_()
    f_data.requires_grad_()
    excess = share - beta
    ours = denoising_loss(f, x0, origin, share, excess).sum()
    ours = ours + denoising_loss(f_data, data, data_origin, 1 - share, -excess).sum()
    deviations = f - origin, f_data - data_origin
    authors = share * (deviations[0] - beta / share * (x0 - origin)).square().sum()
    if share == 1:
        authors = authors - 2 * (1 - beta) * (deviations[1] * (data - data_origin)).sum()
    else:
        scaled = (1 - beta) / (1 - share) * (data - data_origin)
        authors = authors + (1 - share) * (deviations[1] - scaled).square().sum()
    for mine, theirs in zip(
        torch.autograd.grad(ours, [f, f_data]), torch.autograd.grad(authors, [f, f_data]), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_a_deviation_is_proportional_to_the_network_s_target(target: PredictionType) -> None:
    x0, eps, alpha, sigma = draw(7)
    x_t = alpha * x0 + sigma * eps
    output = from_x0(target, x0, x_t, alpha, sigma)
    ratio = deviation(target, x0, x_t, alpha, sigma) / output
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-9, atol=0)
