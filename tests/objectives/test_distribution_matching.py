"""(a) Distribution matching against the exact gradient of D_f at one noise level."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from distill.divergences import TABLE, parse
from distill.objectives import distribution_matching
from distill.objectives.gradients.weighting import FLOOR, Weighting
from distill.types import Scores
from tests.helpers.closed_form import (
    DOUBLE,
    IMAGE_SHAPE,
    IMAGE_STUDENT,
    IMAGE_TEACHER,
    LEVELS,
    ROWS,
    assert_near,
    divergence_value,
    draw,
    expected_gradient,
    expected_image_gradient,
    gradient_of,
    observe_images,
    sampled_gradient,
    tensor,
)

NAMES = [*TABLE, "alpha:1.5", "0.4*forward_kl+0.6*reverse_kl"]


def objective(name: str, weighting: Weighting = "score") -> functools.partial:
    return functools.partial(distribution_matching, divergence=parse(name), weighting=weighting)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_gradient_is_the_oracles(row: dict) -> None:
    alpha, sigma = tensor(row["alpha"]), tensor(row["sigma"])
    assert_near(expected_gradient(objective(row["divergence"]), alpha, sigma), row["grad_value"], 1e-9)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_closed_form_is_the_oracles(row: dict) -> None:
    """The quadrature that the other tests differentiate agrees with values of other code."""
    value = functools.partial(
        divergence_value, parse(row["divergence"]), tensor(row["alpha"]), tensor(row["sigma"])
    )
    assert_near(value(), row["value"], 1e-9)
    assert_near(gradient_of(value), row["grad_value"], 1e-9)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_the_divergence(name: str, level: str) -> None:
    alpha, sigma = map(tensor, LEVELS[level])
    exact = gradient_of(lambda parameters: divergence_value(parse(name), alpha, sigma, parameters))
    assert_near(expected_gradient(objective(name), alpha, sigma), exact, 1e-11)


@pytest.mark.parametrize("alpha_sigma", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl"])
def test_gradient_of_images(name: str, alpha_sigma: tuple[float, float]) -> None:
    """Samples of (b, c, h, w), against the formula of the KL divergence of Gaussians."""
    alpha, sigma = map(tensor, alpha_sigma)

    def exact(parameters: torch.Tensor) -> torch.Tensor:
        teacher = (alpha * IMAGE_TEACHER.means[..., 0], (alpha * IMAGE_TEACHER.stds[..., 0]) ** 2 + sigma**2)
        student = (alpha * parameters[0], (alpha * parameters[1]) ** 2 + sigma**2)
        of, to = (teacher, student) if name == "forward_kl" else (student, teacher)
        squared = of[1] + (of[0] - to[0]) ** 2
        return (squared / to[1] - 1 - (of[1] / to[1]).log()).sum() / 2

    actual = expected_image_gradient(objective(name), alpha, sigma)
    assert_near(actual, gradient_of(exact, IMAGE_STUDENT), 1e-11)


def test_samples_agree_with_the_divergence() -> None:
    alpha, sigma = LEVELS["ve"]
    exact = gradient_of(
        lambda parameters: divergence_value(parse("jensen_shannon"), tensor(alpha), tensor(sigma), parameters)
    )
    gradient, standard_error = sampled_gradient(objective("jensen_shannon"), alpha, sigma)
    assert (standard_error < 1e-3).all()
    assert ((gradient - exact).abs() < 4 * standard_error).all()


def test_reverse_kl_is_dmd() -> None:
    """Yin et al. 2024, eq. 7 and 8: the gradient at x_0 is (fake - teacher) / mean|x_0 - teacher|."""
    _, _, alpha, sigma = draw(7)
    random = torch.Generator().manual_seed(0)
    x0, eps, teacher, fake = torch.randn(4, 7, 3, 4, 5, generator=random, dtype=DOUBLE)
    x0.requires_grad_()
    scores = Scores(x0, alpha * x0 + sigma * eps, alpha, sigma, teacher, fake, eps[:, 0, 0, 0])
    loss = distribution_matching(scores, TABLE["reverse_kl"], "dmd").loss
    published = (fake - teacher) / (x0.detach() - teacher).abs().mean(dim=[1, 2, 3], keepdim=True)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), x0)[0], published, rtol=1e-12, atol=1e-12)


def test_f_weights_dmd_per_sample() -> None:
    """Xu et al. 2025: any other divergence multiplies each sample's gradient by its h(r)."""
    x0, eps, alpha, sigma = draw(7)
    x0.requires_grad_()
    scores = observe_images(x0, eps, alpha, sigma)
    r = scores.log_ratio.detach().exp()
    reverse, jensen = (
        torch.autograd.grad(distribution_matching(scores, TABLE[name]).loss.sum(), x0, retain_graph=True)[0]
        for name in ("reverse_kl", "jensen_shannon")
    )
    torch.testing.assert_close(jensen, (r / (1 + r))[:, None, None, None] * reverse, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("one", "other"),
    [("forward_kl", "alpha:1"), ("jeffreys", "forward_kl+reverse_kl"), ("reverse_kl", "alpha:0")],
)
@pytest.mark.parametrize("weighting", ["score", "prediction", "dmd"])
def test_equal_divergences_give_equal_losses(one: str, other: str, weighting: Weighting) -> None:
    scores = observe_images(*draw(7))
    losses = [objective(name, weighting)(scores).loss for name in (one, other)]
    torch.testing.assert_close(*losses, rtol=1e-13, atol=1e-13)


def test_the_gradients_of_the_weightings_differ_by_a_constant_per_sample() -> None:
    """The constants are sigma^2/alpha^2 for the prediction, and with DMD's 1/mean|x_0 - teacher|.

    Only gradients are compared, because the losses are surrogates whose values mean nothing.
    """
    x0, eps, alpha, sigma = draw(7)
    x0.requires_grad_()
    scores = observe_images(x0, eps, alpha, sigma)
    to_prediction = (sigma / alpha).square().flatten()
    normaliser = (x0 - scores.teacher).detach().abs().mean(dim=[1, 2, 3])
    losses = {
        weighting: objective("softened_reverse_kl", weighting)(scores).loss
        for weighting in ("score", "prediction", "dmd")
    }
    gradients = {
        weighting: torch.autograd.grad(loss.sum(), x0, retain_graph=True)[0].flatten(1)
        for weighting, loss in losses.items()
    }
    for weighting, factor in (("prediction", to_prediction), ("dmd", to_prediction / normaliser)):
        expected = factor[:, None] * gradients["score"]
        torch.testing.assert_close(gradients[weighting], expected, rtol=1e-12, atol=1e-12)


def test_normaliser_has_a_floor() -> None:
    scores = observe_images(*draw(3))
    agreeing = dataclasses.replace(scores, x0=scores.teacher)
    floored, plain = (
        objective("reverse_kl", weighting)(agreeing).loss for weighting in ("dmd", "prediction")
    )
    torch.testing.assert_close(floored, plain / FLOOR, rtol=1e-12, atol=0)
    assert FLOOR == 1e-5


def test_networks_and_ratio_are_left_out_of_the_graph() -> None:
    scores = observe_images(*draw(3))
    leaves = {
        name: getattr(scores, name).clone().requires_grad_()
        for name in ("x0", "teacher", "fake", "log_ratio")
    }
    output = distribution_matching(dataclasses.replace(scores, **leaves), TABLE["jeffreys"])
    gradients = torch.autograd.grad(output.loss.sum(), leaves.values(), allow_unused=True)
    assert gradients[0].abs().min() > 0
    assert gradients[1:] == (None, None, None)


def test_metrics_are_the_weight_and_the_gap_of_the_predictions() -> None:
    scores = observe_images(*(part.requires_grad_() for part in draw(3)))
    metrics = distribution_matching(scores, TABLE["jeffreys"]).metrics
    gap = (scores.teacher - scores.fake).square().mean(dim=[1, 2, 3])
    assert not any(metric.requires_grad for metric in metrics.values())
    torch.testing.assert_close(metrics["h"], 1 + scores.log_ratio.detach().exp())
    torch.testing.assert_close(metrics["prediction_gap"], gap.detach())


@pytest.mark.parametrize("weighting", ["score", "prediction", "dmd"])
def test_samples_of_a_batch_are_independent(weighting: Weighting) -> None:
    x0, eps, alpha, sigma = draw(5)
    loss_of = objective("jeffreys", weighting)
    together = loss_of(observe_images(x0, eps, alpha, sigma)).loss
    for i in range(5):
        row = slice(i, i + 1)
        alone = loss_of(observe_images(x0[row], eps[row], alpha[row], sigma[row])).loss
        torch.testing.assert_close(together[row], alone, rtol=1e-13, atol=1e-13)
    x0.requires_grad_()
    gradient = torch.autograd.grad(loss_of(observe_images(x0, eps, alpha, sigma)).loss[2], x0)[0]
    assert gradient.shape == (5, *IMAGE_SHAPE)
    assert [bool(row.any()) for row in gradient] == [False, False, True, False, False]
