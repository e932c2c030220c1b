"""(b) Score matching against the gradient of E[rho(delta)] at fixed samples, and SiD's published loss."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch
from torch import Tensor

from distill.divergences import TABLE
from distill.objectives import expanded_divergence, score_matching
from distill.objectives.gradients.score_matching import Distance
from distill.objectives.gradients.weighting import Weighting
from tests.helpers.closed_form import (
    IMAGE_SHAPE,
    IMAGE_STUDENT,
    IMAGE_TEACHER,
    LEVELS,
    ROWS,
    STUDENT,
    TEACHER,
    assert_near,
    draw,
    expected_gradient,
    expected_image_gradient,
    gaussian,
    gradient_of,
    integrate,
    observe_images,
    sampled_gradient,
    tensor,
)

REVERSE_KL_ROWS = [row for row in ROWS if row["divergence"] == "reverse_kl"]
WEIGHTINGS = ["score", "prediction", "dmd"]


def objective(
    distance: Distance = "l2", alpha: float = 1.0, c: float = 0.01, weighting: Weighting = "score"
) -> functools.partial:
    return functools.partial(score_matching, distance=distance, alpha=alpha, c=c, weighting=weighting)


@pytest.mark.parametrize("row", REVERSE_KL_ROWS, ids=lambda row: row["id"])
@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_alpha_trades_the_fisher_part(row: dict, alpha: float) -> None:
    """alpha = 1/2 gives the exact gradient of E|delta|^2, alpha = 1 only its part through the fake score."""
    sim, fisher = tensor(row["grad_parts"]["sim"]), tensor(row["grad_parts"]["fisher"])
    expected = sim + 2 * (1 - alpha) * fisher
    actual = expected_gradient(objective(alpha=alpha), tensor(row["alpha"]), tensor(row["sigma"]))
    assert_near(actual, expected, 1e-9)
    if alpha == 0.5:
        assert_near(actual, row["grad_expansion"], 1e-9)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_alpha_one_half_is_expanded_reverse_kl(weighting: Weighting) -> None:
    x0, eps, alpha, sigma = draw(7)
    x0.requires_grad_()
    scores = observe_images(x0, eps, alpha, sigma)
    losses = [
        score_matching(scores, alpha=0.5, weighting=weighting).loss,
        expanded_divergence(scores, TABLE["reverse_kl"], weighting=weighting).loss,
    ]
    gradients = [torch.autograd.grad(loss.sum(), x0, retain_graph=True)[0] for loss in losses]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def distance_value(distance: Distance, gap: Tensor, c: float) -> Tensor:
    """Return rho as a function of the gap |delta|^2."""
    return gap if distance == "l2" else (gap + c**2).sqrt() - c


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("distance", "c"), [("l2", 0.0), ("pseudo_huber", 0.3), ("pseudo_huber", 2.0)])
@pytest.mark.parametrize("weighting", ["score", "prediction"])
def test_gradient_is_that_of_the_distance_at_fixed_samples(
    level: str, distance: Distance, c: float, weighting: Weighting
) -> None:
    alpha, sigma = map(tensor, LEVELS[level])
    unit = alpha / sigma**2 if weighting == "score" else tensor(1.0)

    def exact(parameters: Tensor) -> Tensor:
        student = gaussian(*parameters)

        def rho(_q: object, x: Tensor, _u: Tensor) -> Tensor:
            teacher_x0, student_x0 = (p.prediction(x, alpha[None], sigma[None]) for p in (TEACHER, student))
            return distance_value(distance, (unit * (teacher_x0 - student_x0)) ** 2, c)

        return integrate(rho, alpha, sigma, STUDENT)

    actual = expected_gradient(objective(distance, c=c, weighting=weighting), alpha, sigma)
    assert_near(actual, gradient_of(exact), 1e-10)


@pytest.mark.parametrize(("distance", "c"), [("l2", 0.0), ("pseudo_huber", 1.0)])
def test_gradient_of_images(distance: Distance, c: float) -> None:
    """Samples of (b, c, h, w): rho is a function of the length of delta over all elements."""
    alpha, sigma = map(tensor, LEVELS["vp"])
    levels = (alpha.reshape(1, 1, 1, 1), sigma.reshape(1, 1, 1, 1))
    mean, std = IMAGE_STUDENT
    nodes = torch.linspace(-10, 10, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(nodes, nodes)
    x = alpha * mean + ((alpha * std) ** 2 + sigma**2).sqrt() * grid.reshape(-1, *IMAGE_SHAPE)
    density = (-grid.square().sum(1) / 2).exp()

    def exact(parameters: Tensor) -> Tensor:
        delta = IMAGE_TEACHER.score(x, *levels) - gaussian(*parameters).score(x, *levels)
        gap = delta.square().sum(dim=[1, 2, 3])
        return (density * distance_value(distance, gap, c)).sum() / density.sum()

    actual = expected_image_gradient(objective(distance, c=c), alpha, sigma)
    assert_near(actual, gradient_of(exact, IMAGE_STUDENT), 1e-8)


def test_samples_agree_with_the_oracle() -> None:
    row = next(row for row in REVERSE_KL_ROWS if (row["alpha"], row["sigma"]) == (1.0, 0.7))
    gradient, standard_error = sampled_gradient(objective(), row["alpha"], row["sigma"])
    assert (standard_error < 5e-3).all()
    assert ((gradient - tensor(row["grad_parts"]["sim"])).abs() < 4 * standard_error).all()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_l2_is_twice_sid(alpha: float) -> None:
    """Zhou et al. 2024, eq. 23: gap.(teacher - x_0 - alpha gap)/mean|x_0 - teacher|, gap = teacher - fake."""
    scores = observe_images(*draw(7))
    gap = scores.teacher - scores.fake
    normaliser = (scores.x0 - scores.teacher).abs().mean(dim=[1, 2, 3])
    published = (gap * (scores.teacher - scores.x0 - alpha * gap)).sum(dim=[1, 2, 3]) / normaliser
    loss = score_matching(scores, alpha=alpha).loss
    torch.testing.assert_close(loss, 2 * published, rtol=1e-12, atol=1e-12)


def test_the_metric_is_the_detached_squared_gap() -> None:
    scores = observe_images(*(part.requires_grad_() for part in draw(7)))
    score_gap = score_matching(scores).metrics["score_gap"]
    gap = (scores.teacher - scores.fake).detach()
    assert not score_gap.requires_grad
    torch.testing.assert_close(score_gap, gap.square().sum(dim=[1, 2, 3]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("distance", ["l2", "pseudo_huber"])
def test_weightings_differ_by_a_constant_per_sample(distance: Distance) -> None:
    """With k = sigma^2/alpha, the constant of `prediction` is k^2 for L2 and k for pseudo-Huber of k c.

    `dmd` multiplies it by 1/mean|x_0 - teacher|.
    """
    x0, eps, alpha, sigma = draw(7)
    alpha, sigma = alpha[:1].expand_as(alpha), sigma[:1].expand_as(sigma)
    x0.requires_grad_()
    scores = observe_images(x0, eps, alpha, sigma)
    k = (sigma[0].square() / alpha[0]).item()
    to_prediction = torch.full((7,), k**2 if distance == "l2" else k, dtype=torch.float64)
    normaliser = (x0 - scores.teacher).detach().abs().mean(dim=[1, 2, 3])
    losses = {
        w: objective(distance, 1.2, 0.4 if w == "score" else 0.4 * k, w)(scores).loss for w in WEIGHTINGS
    }
    gradients = {
        w: torch.autograd.grad(loss.sum(), x0, retain_graph=True)[0].flatten(1) for w, loss in losses.items()
    }
    for weighting, factor in (("prediction", to_prediction), ("dmd", to_prediction / normaliser)):
        torch.testing.assert_close(losses[weighting], factor * losses["score"], rtol=1e-12, atol=1e-12)
        expected = factor[:, None] * gradients["score"]
        torch.testing.assert_close(gradients[weighting], expected, rtol=1e-12, atol=1e-12)


def test_gradient_flows_through_both_networks_and_x0() -> None:
    """The gradients of pseudo-Huber by hand: L = d.(fake - x_0) / s with s = sqrt(|d|^2 + c^2)."""
    scores = observe_images(*draw(3))
    x0, teacher, fake = (part.clone().requires_grad_() for part in (scores.x0, scores.teacher, scores.fake))
    scores = dataclasses.replace(scores, x0=x0, teacher=teacher, fake=fake)
    loss = score_matching(scores, "pseudo_huber", 1.0, 0.3, "prediction").loss
    gradients = torch.autograd.grad(loss.sum(), (x0, teacher, fake))
    with torch.no_grad():
        d, e = teacher - fake, fake - x0
        s = (d.square().sum(dim=[1, 2, 3], keepdim=True) + 0.3**2).sqrt()
        through_d = e / s - d * (d * e).sum(dim=[1, 2, 3], keepdim=True) / s**3
    for gradient, expected in zip(gradients, (-d / s, through_d, d / s - through_d), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("distance", ["l2", "pseudo_huber"])
def test_samples_of_a_batch_are_independent(distance: Distance, weighting: Weighting) -> None:
    x0, eps, alpha, sigma = draw(5)
    loss_of = objective(distance, 1.2, 0.3, weighting)
    together = loss_of(observe_images(x0, eps, alpha, sigma)).loss
    for i in range(5):
        row = slice(i, i + 1)
        alone = loss_of(observe_images(x0[row], eps[row], alpha[row], sigma[row])).loss
        torch.testing.assert_close(together[row], alone, rtol=1e-13, atol=1e-13)
    x0.requires_grad_()
    gradient = torch.autograd.grad(loss_of(observe_images(x0, eps, alpha, sigma)).loss[2], x0)[0]
    assert [bool(row.any()) for row in gradient] == [False, False, True, False, False]
