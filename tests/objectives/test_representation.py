"""Distances of features as losses: against eval's Fréchet distance, finite differences and double sums."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from distill.eval.frechet import Statistics, frechet_distance
from distill.objectives.feature_distances import FrechetDistance, KernelDistance
from distill.objectives.representation import Pixels, RepresentationTerm
from distill.objectives.term import StatefulTerm, TermInputs
from distill.types import Condition, Generator, Prediction, Scores
from tests.helpers.gaussian_pairs import draw

D = 6


def frechet(real: Tensor, made: Tensor, memory: int = 1, ridge: float = 1e-9) -> FrechetDistance:
    """Return the distance after the student's features were seen once, all with the same weight."""
    distance = FrechetDistance(D, memory, ridge)
    distance.prepare(real)
    distance.remember(made)
    return distance


def biased_statistics(features: Tensor, added: float = 0.0) -> Statistics:
    """Return mean and covariance divided by n, plus a variance in all directions."""
    cov = torch.cov(features.T, correction=0) + added * torch.eye(D, dtype=torch.float64)
    return Statistics(features.mean(0), cov, None)


def test_the_frechet_distance_is_that_of_measurements() -> None:
    real, made = draw(300, D, seed=0), draw(200, D, seed=1, offset=0.5)
    distance = frechet(real, made)
    expected = frechet_distance(biased_statistics(made), Statistics.of(real))
    assert distance.distance(made).item() == pytest.approx(expected, rel=1e-6)
    # The mean loss over the features that were seen is the distance too.
    torch.testing.assert_close(
        distance(made).mean(), torch.tensor(expected / D, dtype=torch.float64), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("ridge", [1e-9, 0.3])
def test_the_frechet_gradient_is_that_of_the_distance_by_finite_differences(ridge: float) -> None:
    """Move all features along a direction: the losses' gradient is the change of the distance, over d."""
    real, made = draw(300, D, seed=0), draw(200, D, seed=1, offset=0.5)
    distance = frechet(real, made, ridge=ridge)
    features = made.clone().requires_grad_()
    gradient = torch.autograd.grad(distance(features).mean(), features)[0]
    cov = torch.cov(real.T)
    added = ridge * float(cov.diagonal().mean())
    real_statistics = Statistics(real.mean(0), cov + added * torch.eye(D, dtype=torch.float64), None)
    random = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(200, D, generator=random, dtype=torch.float64)
        step = 1e-4
        ends = [
            frechet_distance(biased_statistics(made + sign * step * direction, added), real_statistics)
            for sign in (1, -1)
        ]
        expected = (ends[0] - ends[1]) / (2 * step) / D
        assert (gradient * direction).sum().item() == pytest.approx(expected, rel=1e-5)


def test_the_frechet_gradient_vanishes_for_equal_moments() -> None:
    real = draw(300, D, seed=0)
    other = (real - real.mean(0)).flip(0) @ torch.eye(D, dtype=torch.float64) + real.mean(0)
    scaled = (other - other.mean(0)) * (300 / 299) ** 0.5 + other.mean(
        0
    )  # n in the covariance instead of n - 1
    features = scaled.clone().requires_grad_()
    distance = frechet(real, scaled)
    assert abs(distance.value.item()) < 1e-8
    assert torch.autograd.grad(distance(features).mean(), features)[0].abs().max() < 1e-8


def test_moments_forget_old_features_exponentially() -> None:
    """After 100 features of each of two steps with a memory of 100, the first step counts 1/e as much."""
    real, first, second = (draw(n, D, seed=seed) for seed, n in enumerate((300, 100, 100)))
    distance = FrechetDistance(D, 100, 1e-9)
    distance.prepare(real)
    distance.remember(first)
    distance.remember(second)
    weights = torch.cat([torch.full((100,), torch.e**-1), torch.ones(100)]).double()
    both = torch.cat([first, second])
    mean = (weights[:, None] * both).sum(0) / weights.sum()
    cov = torch.cov(both.T, correction=0, aweights=weights)
    torch.testing.assert_close(distance.mean, mean, rtol=1e-6, atol=1e-6)
    expected = frechet_distance(Statistics(mean, cov, None), Statistics.of(real))
    assert distance.value.item() == pytest.approx(expected, rel=1e-5)


def test_the_frechet_loss_waits_for_its_memory() -> None:
    distance = FrechetDistance(D, 150, 1e-3)
    distance.prepare(draw(300, D, seed=0))
    made = draw(100, D, seed=1)
    distance.remember(made)
    assert distance(made).eq(0).all()
    distance.remember(made)
    assert distance(made).gt(0).all()


def gaussian_kernel(a: Tensor, b: Tensor, bandwidth: float) -> Tensor:
    return (torch.cdist(a, b).square() / (-2 * bandwidth**2)).exp()


@pytest.mark.parametrize("bandwidth", [0.7, 3.0])
def test_mmd_and_its_gradient_are_those_of_the_double_sums(bandwidth: float) -> None:
    """With the batch itself in the queue, the gradient is that of MMD^2 through both of its arguments."""
    real, made = draw(90, D, seed=0), draw(60, D, seed=1, offset=0.5)
    distance = KernelDistance(D, 60, bandwidth).double()
    distance.prepare(real)
    distance.remember(made)
    features = made.clone().requires_grad_()
    among = gaussian_kernel(features, features, bandwidth).mean()
    expected = among - 2 * gaussian_kernel(features, real, bandwidth).mean()
    expected = expected + gaussian_kernel(real, real, bandwidth).mean()
    torch.testing.assert_close(distance.distance(made), expected.detach(), rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(expected / D, features)
    (found,) = torch.autograd.grad(distance(features).mean(), features)
    torch.testing.assert_close(found, gradient, rtol=1e-9, atol=1e-12)


def test_the_queue_holds_the_last_features() -> None:
    distance = KernelDistance(D, 5).double()
    distance.prepare(draw(20, D, seed=0))
    made = draw(14, D, seed=1)
    for part in made.split([3, 4, 7]):
        distance.remember(part)
    held = distance.queue + distance.centre
    assert int(distance.seen) == 14
    for row in made[-5:]:
        assert (held - row).abs().sum(1).min() < 1e-12
    assert distance.bandwidth == pytest.approx(
        Statistics.of(draw(20, D, seed=0)).cov.trace().item() ** 0.5 * (19 / 20) ** 0.5
    )


class Plain(Generator):
    """Its samples are its images."""

    image_shape, label_count = (1, 2, 3), 0

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        return z


def inputs_of(x0: Tensor) -> TermInputs:
    ones = x0.new_ones(len(x0), 1, 1, 1)
    scores = Scores(x0, x0, ones, ones, x0, x0, x0.new_zeros(len(x0)))
    return TermInputs(scores, Condition(), Plain(), Prediction(x0))


@pytest.mark.parametrize("kind", ["frechet", "mmd"])
def test_what_a_term_remembers_does_not_depend_on_micro_batches_and_comes_back(kind: str) -> None:
    def start() -> RepresentationTerm:
        make = (lambda d: FrechetDistance(d, 12)) if kind == "frechet" else (lambda d: KernelDistance(d, 12))
        term = RepresentationTerm(Pixels(), make)
        assert isinstance(term, StatefulTerm)
        term.begin((1, 2, 3), torch.device("cpu"))
        term.prepare(term.features(draw(50, D, seed=0).float().reshape(-1, 1, 2, 3)))
        return term

    whole, split = start(), start()
    steps = draw(32, D, seed=1, offset=0.3).float().reshape(4, 8, 1, 2, 3)
    for step in steps:
        whole(inputs_of(step))
        whole.commit(lambda tensor: tensor)
        for part in step.split(3):
            split(inputs_of(part))
        split.commit(lambda tensor: tensor)
    state = whole.state.state_dict()
    for name, value in split.state.state_dict().items():
        assert torch.equal(value, state[name]), name
    resumed = start()
    resumed.state.load_state_dict(copy.deepcopy(state))
    last = steps[0].clone().requires_grad_()
    losses = [term(inputs_of(last)).loss for term in (whole, resumed)]
    assert losses[0].abs().max() > 0
    assert torch.equal(*losses)
    # A loss per sample: of samples alone it is the same.
    torch.testing.assert_close(whole(inputs_of(last[2:3])).loss, losses[0][2:3])


@pytest.mark.parametrize("kind", ["frechet", "mmd"])
def test_distances_are_computed_in_full_precision_beside_autocast(kind: str) -> None:
    make = (lambda d: FrechetDistance(d, 12)) if kind == "frechet" else (lambda d: KernelDistance(d, 12))
    term = RepresentationTerm(Pixels(), make)
    term.begin((1, 2, 3), torch.device("cpu"))
    term.prepare(draw(50, D, seed=0).float())
    made = draw(16, D, seed=1, offset=0.3).float().reshape(16, 1, 2, 3)
    term(inputs_of(made))
    term.commit(lambda tensor: tensor)
    expected = term(inputs_of(made))
    with torch.autocast("cpu", torch.bfloat16):
        found = term(inputs_of(made))
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(found.metrics["distance"], expected.metrics["distance"])
