"""The Fréchet distance against closed forms, scipy's matrix square root, and itself computed in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.metrics.torchmetrics import FrechetDistance
from tests.helpers.gaussian_pairs import commuting_distance, draw, gaussian, pairs, rotation


def test_full_rank_agrees_with_scipy() -> None:
    a, b = draw(500, 64, seed=0), draw(300, 64, seed=1, offset=0.3)
    cov_a, cov_b = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    expected = np.square(a.numpy().mean(0) - b.numpy().mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(Statistics.of(a), Statistics.of(b)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", pairs())
def test_torchmetrics_agrees(name: str) -> None:
    from torchmetrics.image.fid import _compute_fid

    a, b = pairs()[name]
    assert frechet_distance(a, b) == pytest.approx(
        float(_compute_fid(a.mean, a.cov, b.mean, b.cov)), rel=1e-6
    )


@pytest.mark.parametrize("name", pairs())
def test_clean_fid_agrees(name: str, oracle: dict[str, np.ndarray]) -> None:
    assert frechet_distance(*pairs()[name]) == pytest.approx(float(oracle[f"distance {name}"]), rel=1e-6)


def test_one_dimension() -> None:
    a = Statistics(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double(), 100)
    b = Statistics(torch.tensor([4.0]).double(), torch.tensor([[25.0]]).double(), 100)
    assert frechet_distance(a, b) == pytest.approx(9 + 9, rel=1e-14)


def test_commuting_gaussians_and_a_moved_mean() -> None:
    a, b = torch.linspace(0.1, 2, 48).double(), torch.linspace(3, 0.5, 48).double()
    shift = torch.linspace(-1, 1, 48).double()
    found = frechet_distance(gaussian(a, rotation(48)), gaussian(b, rotation(48), shift))
    assert found == pytest.approx(commuting_distance(a, b) + float(shift.square().sum()), rel=1e-12)


def test_rank_deficient_covariances() -> None:
    a, b = torch.linspace(0.1, 2, 64).double(), torch.linspace(3, 0.5, 64).double()
    a[:40], b[50:] = 0, 0
    basis = rotation(64)
    expected = commuting_distance(a, b)
    assert frechet_distance(gaussian(a, basis), gaussian(b, basis)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(gaussian(b, basis), gaussian(a, basis)) == pytest.approx(expected, rel=1e-9)
    full = torch.full((64,), 0.7).double()
    assert frechet_distance(gaussian(a, basis), gaussian(full, basis)) == pytest.approx(
        commuting_distance(a, full), rel=1e-9
    )


def test_rank_one_covariances_in_different_directions() -> None:
    a, b = draw(2, 64, seed=3)
    root = float((a @ b).abs())  # (a a^T)^(1/2) b b^T (a a^T)^(1/2) has the one eigenvalue (a.b)^2
    found = frechet_distance(*(Statistics(torch.zeros(64).double(), torch.outer(v, v), 2) for v in (a, b)))
    assert found == pytest.approx(float(a @ a + b @ b) - 2 * root, rel=1e-9)


def test_near_singular_covariances() -> None:
    a = torch.logspace(0, -13, 64).double()
    b = torch.logspace(-12, 1, 64).double()
    basis = rotation(64)
    assert frechet_distance(gaussian(a, basis), gaussian(b, basis)) == pytest.approx(
        commuting_distance(a, b), rel=1e-6
    )
    assert frechet_distance(gaussian(a, basis), gaussian(a, basis)) == pytest.approx(0, abs=1e-12)


def test_a_distance_that_is_small_beside_singular_covariances() -> None:
    """Half of the eigenvalues are rounding: their roots would spoil the digits of the distance."""
    a, b = torch.full((64,), 1e-15).double(), torch.full((64,), 1e-15).double()
    a[:32], b[:32] = 1, (1 + 1e-3) ** 2
    basis = rotation(64)
    for one, other in ((a, b), (b, a)):
        found = frechet_distance(gaussian(one, basis), gaussian(other, basis))
        assert found == pytest.approx(32e-6, rel=1e-6)


def test_fewer_images_than_dimensions() -> None:
    """The trace of the root is the nuclear norm of A B^T over the degrees of freedom's root.

    A and B are centred features.
    """
    a, b = draw(20, 64, seed=5), draw(30, 64, seed=5, offset=1.0)
    centred_a, centred_b = (x.numpy() - x.numpy().mean(0) for x in (a, b))
    root = np.linalg.svd(centred_a @ centred_b.T, compute_uv=False).sum() / np.sqrt(19 * 29)
    mean = np.square(a.numpy().mean(0) - b.numpy().mean(0)).sum()
    expected = mean + np.square(centred_a).sum() / 19 + np.square(centred_b).sum() / 29 - 2 * root
    assert frechet_distance(Statistics.of(a), Statistics.of(b)) == pytest.approx(expected, rel=1e-9)


def test_constant_features_have_the_distance_of_their_means() -> None:
    a, b = torch.full((5, 3), 0.1), torch.full((5, 3), 0.4)
    assert frechet_distance(Statistics.of(a.double()), Statistics.of(b.double())) == pytest.approx(
        3 * 0.3**2, rel=1e-6
    )
    assert Statistics.of(a.double()).cov.abs().max() < 1e-30


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_streaming_agrees_with_direct_computation_far_from_zero(batch_size: int) -> None:
    features = draw(200, 16, seed=7, offset=1e5)  # plain sums of squares would lose 10 of the 16 digits here
    found = Statistics.streaming(iter(features.split(batch_size)))
    expected = np.cov(features.numpy().T)
    assert found.count == 200
    np.testing.assert_allclose(found.mean.numpy(), features.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.cov.numpy(), expected, rtol=0, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(
        Statistics.of(features).cov.numpy(), expected, rtol=0, atol=1e-12 * np.abs(expected).max()
    )


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_metric_agrees_with_the_function(batch_size: int) -> None:
    real, made = Statistics.of(draw(300, 16, seed=8, offset=1e4)), draw(100, 16, seed=9, offset=1e4)
    metric = FrechetDistance(real)
    for batch in made.split(batch_size):
        metric.update(batch)
    assert float(metric.compute()) == pytest.approx(frechet_distance(Statistics.of(made), real), rel=1e-9)
    metric.reset()
    metric.update(made[:50])
    assert float(metric.compute()) == pytest.approx(
        frechet_distance(Statistics.of(made[:50]), real), rel=1e-9
    )


def test_metric_reduces_over_processes() -> None:
    real, made = Statistics.of(draw(300, 16, seed=8)), draw(100, 16, seed=9)
    other = FrechetDistance(real)
    other.update(made[30:])
    states = {tensor.shape: tensor for tensor in (other.total, other.products, other.count)}

    def gather(tensor: Tensor, group: object = None) -> list[Tensor]:
        """Gather as torch.distributed would from two processes, of which `other` is the second."""
        return [tensor, states[tensor.shape]]

    metric = FrechetDistance(real)
    metric.dist_sync_fn, metric.distributed_available_fn = gather, lambda: True
    metric.update(made[:30])
    assert float(metric.compute()) == pytest.approx(frechet_distance(Statistics.of(made), real), rel=1e-12)


def test_features_of_any_precision_are_summed_in_float64() -> None:
    features = draw(100, 8, seed=10, offset=50.0).float()
    assert torch.equal(Statistics.of(features).cov, Statistics.of(features.double()).cov)


def test_warning_names_a_count_that_does_not_span_the_features() -> None:
    assert Statistics.of(draw(17, 16, seed=0)).warning is None
    assert Statistics.of(draw(16, 16, seed=0)).warning == (
        "16 images span fewer than the 16 dimensions of the features: the Fréchet distance is biased upwards"
    )


def test_bad_features_are_refused() -> None:
    good, broken = draw(10, 4, seed=0), draw(10, 4, seed=0)
    broken[[3, 6], 1] = torch.tensor([float("nan"), float("inf")], dtype=torch.float64)
    with pytest.raises(UserError, match=r"^features: 2 of 10 rows are not finite, first row 3$"):
        Statistics.of(broken)
    with pytest.raises(UserError, match=r"^1 images; expected at least 2"):
        Statistics.of(good[:1])
    with pytest.raises(UserError, match=r"^0 images; expected at least 2"):
        Statistics.streaming([])
    with pytest.raises(UserError, match=r"^features of 3 dimensions; expected 4 as before$"):
        Statistics.streaming([good, good[:, :3]])
    with pytest.raises(UserError, match=r"^features of 4 and of 3 dimensions; expected the same"):
        frechet_distance(Statistics.of(good), Statistics.of(good[:, :3]))
    with pytest.raises(UserError, match=r"^statistics in torch.float32 and torch.float64; expected float64"):
        Statistics(torch.zeros(2), torch.eye(2).double(), 10)
    with pytest.raises(UserError, match="not a covariance, it has the eigenvalue -1 beside 2"):
        frechet_distance(
            gaussian(torch.tensor([2.0, -1.0]).double(), rotation(2)), Statistics.of(good[:, :2])
        )
