"""(b) against the gradient of E[rho(delta)] with the sampling of x_t held fixed, and SiD's and SIM's published losses."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from distill.divergences import TABLE
from distill.objectives import expanded_divergence, score_matching
from distill.objectives.score_matching import Distance
from distill.objectives.weighting import Weighting
from distill.types import Scores
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
    """1/2 is the exact gradient of E|delta|^2, 1 only its part through the fake score."""
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
    """rho of |delta|^2."""
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
            gap = unit * (
                TEACHER.prediction(x, alpha[None], sigma[None])
                - student.prediction(x, alpha[None], sigma[None])
            )
            return distance_value(distance, gap**2, c)

        return integrate(rho, alpha, sigma, STUDENT)

    assert_near(
        expected_gradient(objective(distance, c=c, weighting=weighting), alpha, sigma),
        gradient_of(exact),
        1e-10,
    )


@pytest.mark.parametrize(("distance", "c"), [("l2", 0.0), ("pseudo_huber", 1.0)])
def test_gradient_of_images(distance: Distance, c: float) -> None:
    """The same where delta has several elements: rho is of its length."""
    alpha, sigma = map(tensor, LEVELS["vp"])
    levels = (alpha.reshape(1, 1, 1, 1), sigma.reshape(1, 1, 1, 1))
    mean, std = IMAGE_STUDENT
    nodes = torch.linspace(-10, 10, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(nodes, nodes)
    x = alpha * mean + ((alpha * std) ** 2 + sigma**2).sqrt() * grid.reshape(-1, *IMAGE_SHAPE)
    density = (-grid.square().sum(1) / 2).exp()

    def exact(parameters: Tensor) -> Tensor:
        gap = (
            (IMAGE_TEACHER.score(x, *levels) - gaussian(*parameters).score(x, *levels))
            .square()
            .sum(dim=[1, 2, 3])
        )
        return (density * distance_value(distance, gap, c)).sum() / density.sum()

    assert_near(
        expected_image_gradient(objective(distance, c=c), alpha, sigma),
        gradient_of(exact, IMAGE_STUDENT),
        1e-8,
    )


def test_samples_agree_with_the_oracle() -> None:
    row = next(row for row in REVERSE_KL_ROWS if (row["alpha"], row["sigma"]) == (1.0, 0.7))
    gradient, standard_error = sampled_gradient(objective(), row["alpha"], row["sigma"])
    assert (standard_error < 5e-3).all()
    assert ((gradient - tensor(row["grad_parts"]["sim"])).abs() < 4 * standard_error).all()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_l2_is_twice_sid(alpha: float) -> None:
    """Zhou et al. 2024, eq. 23: (teacher - fake).((teacher - x_0) - alpha (teacher - fake)) / mean|x_0 - teacher|."""
    scores = observe_images(*(part.requires_grad_() for part in draw(7)))
    gap = scores.teacher - scores.fake
    published = (gap * (scores.teacher - scores.x0 - alpha * gap)).sum(dim=[1, 2, 3]) / (
        scores.x0 - scores.teacher
    ).abs().mean(dim=[1, 2, 3])
    output = score_matching(scores, alpha=alpha)
    torch.testing.assert_close(output.loss, 2 * published, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        output.metrics["score_gap"], gap.detach().square().sum(dim=[1, 2, 3]), rtol=1e-12, atol=0
    )
    assert not output.metrics["score_gap"].requires_grad


@pytest.mark.parametrize("distance", ["l2", "pseudo_huber"])
def test_weightings_differ_by_a_constant_per_sample(distance: Distance) -> None:
    """With k = sigma^2/alpha to units of the prediction: k^2 for L2, k for pseudo-Huber of k c; then DMD's 1/mean|x_0 - teacher|."""
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
        torch.testing.assert_close(
            gradients[weighting], factor[:, None] * gradients["score"], rtol=1e-12, atol=1e-12
        )


def test_gradient_flows_through_both_networks_and_x0() -> None:
    """Pseudo-Huber's by hand: with s = sqrt(|d|^2 + c^2), L = d.(fake - x_0) / s."""
    found = observe_images(*draw(3))
    x0, teacher, fake = (part.clone().requires_grad_() for part in (found.x0, found.teacher, found.fake))
    loss = score_matching(
        Scores(x0, found.x_t, found.alpha, found.sigma, teacher, fake, found.log_ratio),
        "pseudo_huber",
        1.0,
        0.3,
        "prediction",
    ).loss
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
