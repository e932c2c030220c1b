"""(c) The expanded divergence against the gradient of E_q[h |delta|^2], and its integral against D_f."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.divergences import TABLE, parse
from distill.objectives import PUBLISHED_PARTS, Parts, expanded_divergence
from distill.objectives.gradients.expanded_divergence import EXACT_PARTS
from distill.objectives.gradients.weighting import Weighting
from tests.helpers.closed_form import (
    IMAGE_STUDENT,
    IMAGE_TEACHER,
    LEVELS,
    ROWS,
    assert_near,
    divergence_value,
    draw,
    expansion_value,
    expected_gradient,
    expected_image_gradient,
    gradient_of,
    observe_images,
    sampled_gradient,
    tensor,
)

NAMES = [*TABLE, "alpha:1.5", "0.4*forward_kl+0.6*reverse_kl"]
WEIGHTINGS = ["score", "prediction", "dmd"]
PART_NAMES = ["sim", "fisher", "di", "ratio"]


def objective(name: str, parts: Parts = EXACT_PARTS, weighting: Weighting = "score") -> functools.partial:
    return functools.partial(expanded_divergence, divergence=parse(name), parts=parts, weighting=weighting)


def only(part: str) -> Parts:
    """Return the coefficients that keep one part of the gradient."""
    return Parts(**{name: float(name == part) for name in PART_NAMES})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_gradient_is_the_oracles(row: dict) -> None:
    gradient = expected_gradient(objective(row["divergence"]), tensor(row["alpha"]), tensor(row["sigma"]))
    assert_near(gradient, row["grad_expansion"], 1e-9)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_each_part_is_the_oracles(row: dict) -> None:
    levels = (tensor(row["alpha"]), tensor(row["sigma"]))
    scale = max(map(abs, row["grad_expansion"]))
    for part in PART_NAMES:
        gradient = expected_gradient(objective(row["divergence"], only(part)), *levels)
        assert_near(gradient, row["grad_parts"][part], 1e-9, scale)
    published = tensor(row["grad_parts"]["sim"]) + tensor(row["grad_parts"]["di"])
    assert_near(expected_gradient(objective(row["divergence"], PUBLISHED_PARTS), *levels), published, 1e-9)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_closed_form_is_the_oracles(row: dict) -> None:
    """The quadrature that the other tests differentiate agrees with values of other code."""
    value = functools.partial(
        expansion_value, parse(row["divergence"]), tensor(row["alpha"]), tensor(row["sigma"])
    )
    assert_near(value(), row["expansion"], 1e-9)
    assert_near(gradient_of(value), row["grad_expansion"], 1e-9)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_that_of_the_expansion(name: str, level: str) -> None:
    alpha, sigma = map(tensor, LEVELS[level])
    exact = gradient_of(lambda parameters: expansion_value(parse(name), alpha, sigma, parameters))
    assert_near(expected_gradient(objective(name), alpha, sigma), exact, 1e-10)


@pytest.mark.parametrize("alpha_sigma", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl", "0.4*forward_kl+0.6*reverse_kl"])
def test_gradient_of_images(name: str, alpha_sigma: tuple[float, float]) -> None:
    """Samples of (b, c, h, w), against E_q|delta|^2 and E_q[r |delta|^2] = E_p|delta|^2 of Gaussians."""
    alpha, sigma = map(tensor, alpha_sigma)

    def exact(parameters: Tensor) -> Tensor:
        mean_p, mean_q = alpha * IMAGE_TEACHER.means[..., 0], alpha * parameters[0]
        variance_p = (alpha * IMAGE_TEACHER.stds[..., 0]) ** 2 + sigma**2
        variance_q = (alpha * parameters[1]) ** 2 + sigma**2
        # delta is linear in x_t: its mean square under a Gaussian is slope^2 variance + (delta at the mean)^2
        slope, apart = 1 / variance_q - 1 / variance_p, mean_p - mean_q
        under_q = (slope**2 * variance_q + (apart / variance_p) ** 2).sum()
        under_p = (slope**2 * variance_p + (apart / variance_q) ** 2).sum()
        return {"reverse_kl": under_q, "forward_kl": under_p}.get(name, 0.4 * under_p + 0.6 * under_q)

    actual = expected_image_gradient(objective(name), alpha, sigma)
    assert_near(actual, gradient_of(exact, IMAGE_STUDENT), 1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_ratio_is_differentiated_through_the_scores(name: str) -> None:
    """The gradient is that of 2 h(r) delta.e + (h - r h')|delta|^2 with the exact log r in the graph."""
    x0, eps, alpha, sigma = draw(9)
    x0.requires_grad_()
    scores = observe_images(x0, eps, alpha, sigma)
    divergence, unit = parse(name), alpha / sigma**2
    delta, e = unit * (scores.teacher - scores.fake), unit * (scores.fake - x0)
    h, r_h1 = divergence.h(scores.log_ratio), divergence.r_h1(scores.log_ratio)
    loss = 2 * h * (delta * e).sum(dim=[1, 2, 3]) + (h - r_h1) * delta.square().sum(dim=[1, 2, 3])
    (expected,) = torch.autograd.grad(loss.sum(), x0, retain_graph=True)
    (actual,) = torch.autograd.grad(objective(name)(scores).loss.sum(), x0)
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_levels_add_up_to_the_divergence(name: str) -> None:
    """Wang et al. 2025, theorem 3.1, and its gradient.

    1/2 int E_q[h |delta|^2] d(sigma^2) is D_f at the low end less D_f at the high end.
    """
    # Below 0.6 Neyman's chi^2 of this teacher and student is infinite.
    low = 0.7 if name == "neyman_chi2" else 0.05
    nodes, node_weight = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(48))
    middle, half = np.log(low * 30) / 2, np.log(30 / low) / 2
    sigma = (middle + half * nodes).exp()
    alpha, weight = torch.ones_like(sigma), half * node_weight * sigma**2
    ends = tensor([low, 30.0])

    def difference(parameters: Tensor) -> Tensor:
        at_low, at_high = divergence_value(parse(name), torch.ones_like(ends), ends, parameters)
        return at_low - at_high

    integral = (weight * expansion_value(parse(name), alpha, sigma)).sum()
    assert_near(integral, difference(tensor([0.3, 0.9])), 1e-8)
    assert_near(expected_gradient(objective(name), alpha, sigma, weight), gradient_of(difference), 1e-8)


def test_levels_of_flow_matching_add_up() -> None:
    """Along alpha = 1 - t, sigma = t the theorem holds with g^2 dt = alpha^2 d(sigma^2/alpha^2)."""
    nodes, node_weight = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(64))
    low, high = 0.05, 0.95
    t = (low + high) / 2 + (high - low) / 2 * nodes
    weight = (high - low) / 2 * node_weight * t / (1 - t)
    ends = tensor([low, high])

    def difference(parameters: Tensor) -> Tensor:
        at_low, at_high = divergence_value(parse("jensen_shannon"), 1 - ends, ends, parameters)
        return at_low - at_high

    actual = expected_gradient(objective("jensen_shannon"), 1 - t, t, weight)
    assert_near(actual, gradient_of(difference), 1e-8)


def test_samples_agree_with_the_expansion() -> None:
    alpha, sigma = LEVELS["vp"]
    exact = gradient_of(
        lambda parameters: expansion_value(parse("jensen_shannon"), tensor(alpha), tensor(sigma), parameters)
    )
    gradient, standard_error = sampled_gradient(objective("jensen_shannon"), alpha, sigma)
    assert (standard_error < 5e-3).all()
    assert ((gradient - exact).abs() < 4 * standard_error).all()


def test_coefficients_scale_their_parts() -> None:
    scores = observe_images(*draw(7))
    coefficients = {"sim": 0.3, "fisher": 2.0, "di": 0.7, "ratio": 1.9}
    mixed = objective("softened_reverse_kl", Parts(**coefficients))(scores).loss
    separate = [
        factor * objective("softened_reverse_kl", only(part))(scores).loss
        for part, factor in coefficients.items()
    ]
    torch.testing.assert_close(mixed, torch.stack(separate).sum(0), rtol=1e-12, atol=1e-12)
    assert Parts(sim=1.0, fisher=0.0, di=1.0, ratio=0.0) == PUBLISHED_PARTS


@pytest.mark.parametrize(
    ("one", "other"),
    [("forward_kl", "alpha:1"), ("jeffreys", "forward_kl+reverse_kl"), ("reverse_kl", "alpha:0")],
)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_equal_divergences_give_equal_losses(one: str, other: str, weighting: Weighting) -> None:
    scores = observe_images(*draw(7))
    losses = [objective(name, weighting=weighting)(scores).loss for name in (one, other)]
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("parts", [EXACT_PARTS, *map(only, PART_NAMES)], ids=["exact", *PART_NAMES])
def test_weightings_differ_by_a_constant_per_sample(parts: Parts) -> None:
    """The constants are sigma^4/alpha^2 for the prediction, and with DMD's 1/mean|x_0 - teacher|."""
    x0, eps, alpha, sigma = draw(7)
    x0.requires_grad_()
    scores = observe_images(x0, eps, alpha, sigma)
    to_prediction = (sigma**2 / alpha).square().flatten()
    normaliser = (x0 - scores.teacher).detach().abs().mean(dim=[1, 2, 3])
    losses = {
        weighting: objective("softened_reverse_kl", parts, weighting)(scores).loss for weighting in WEIGHTINGS
    }
    gradients = {
        weighting: torch.autograd.grad(loss.sum(), x0, retain_graph=True)[0].flatten(1)
        for weighting, loss in losses.items()
    }
    for weighting, factor in (("prediction", to_prediction), ("dmd", to_prediction / normaliser)):
        torch.testing.assert_close(losses[weighting], factor * losses["score"], rtol=1e-12, atol=1e-12)
        expected = factor[:, None] * gradients["score"]
        torch.testing.assert_close(gradients[weighting], expected, rtol=1e-12, atol=1e-12)


def test_metrics_are_detached_numbers() -> None:
    scores = observe_images(*(part.requires_grad_() for part in draw(7)))
    metrics = objective("pearson_chi2")(scores).metrics
    delta = scores.alpha / scores.sigma**2 * (scores.teacher - scores.fake)
    assert not any(metric.requires_grad for metric in metrics.values())
    torch.testing.assert_close(metrics["h"], 2 * (2 * scores.log_ratio).exp().detach())
    torch.testing.assert_close(metrics["score_gap"], delta.square().sum(dim=[1, 2, 3]).detach())


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_samples_of_a_batch_are_independent(weighting: Weighting) -> None:
    x0, eps, alpha, sigma = draw(5)
    loss_of = objective("jensen_shannon", weighting=weighting)
    together = loss_of(observe_images(x0, eps, alpha, sigma)).loss
    for i in range(5):
        row = slice(i, i + 1)
        alone = loss_of(observe_images(x0[row], eps[row], alpha[row], sigma[row])).loss
        torch.testing.assert_close(together[row], alone, rtol=1e-13, atol=1e-13)
    x0.requires_grad_()
    gradient = torch.autograd.grad(loss_of(observe_images(x0, eps, alpha, sigma)).loss[2], x0)[0]
    assert [bool(row.any()) for row in gradient] == [False, False, True, False, False]


@pytest.mark.parametrize("part", ["sim", "ratio"])
def test_opposite_noise_removes_what_grows_near_level_zero(part: str) -> None:
    """Between smooth densities the gradient grows like 1/sigma, and its mean over eps and -eps does not."""
    x0, eps, _, _ = draw(9)
    x0.requires_grad_()

    def sizes(level: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = (tensor(value).expand(9, 1, 1, 1) for value in (1.0, level))
        gradients = []
        for noise in (eps, -eps):
            loss = objective("forward_kl", only(part))(observe_images(x0, noise, alpha, sigma)).loss
            gradients.append(torch.autograd.grad(loss.sum(), x0)[0])
        return gradients[0].norm(), torch.stack(gradients).mean(0).norm()

    (single, pair), (lower_single, lower_pair) = sizes(1e-2), sizes(1e-3)
    assert_near(lower_single / single, 10.0, 0.1)
    assert_near(lower_pair / pair, 1.0, 0.01)
