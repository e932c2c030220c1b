"""FDr and CMMD against closed forms and independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.frechet import Statistics
from distill.eval.metrics import neighbours
from distill.eval.metrics.frechet_ratio import frechet_ratio, mean_ratio
from distill.eval.metrics.gaussian_mmd import gaussian_mmd


def normal(count: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Compute a Fréchet distance with scipy's root of the product."""
    first, second = np.cov(a.T), np.cov(b.T)
    offset = a.mean(0) - b.mean(0)
    return float(offset @ offset + np.trace(first + second - 2 * sqrtm(first @ second).real))


def test_fdr_is_the_quotient_of_two_distances_to_the_reference() -> None:
    real, held_out, made = normal(400, 3, 0), normal(200, 3, 1), 1.5 * normal(200, 3, 2)
    found = frechet_ratio(made, held_out, Statistics.of(real))
    unit = distance(held_out.numpy(), real.numpy())
    assert found["fdr_count"] == 200
    assert found["fdr_real"] == pytest.approx(unit, rel=1e-8)
    assert found["fdr"] == pytest.approx(distance(made.numpy(), real.numpy()) / unit, rel=1e-8)


def test_fdr_refuses_the_references_images_as_held_out_ones() -> None:
    """Their distance is rounding, not 0: the features are summed in another order."""
    real = normal(500, 64, 0) @ normal(64, 64, 1)
    with pytest.raises(UserError, match=r"^the held-out images are at the distance 0; expected others"):
        frechet_ratio(normal(500, 64, 2), real.flip(0), Statistics.of(real))


def test_fdr_has_no_scale_and_is_1_for_the_held_out_images() -> None:
    real, held_out, made = normal(300, 4, 0), normal(100, 4, 1), normal(100, 4, 2) + 1
    reference = Statistics.of(real)
    assert frechet_ratio(held_out, held_out, reference)["fdr"] == 1
    found = frechet_ratio(made, held_out, reference)["fdr"]
    scaled = frechet_ratio(1000 * made, 1000 * held_out, Statistics.of(1000 * real))["fdr"]
    assert scaled == pytest.approx(found, rel=1e-9)
    assert mean_ratio([found, 2.0]) == pytest.approx((found + 2) / 2)


@pytest.mark.parametrize("fewer", ["generated", "held out"])
def test_fdr_compares_equally_many_images(fewer: str) -> None:
    """For draws of one distribution the quotient is near 1; of 900 and 60 images it would be far from 1."""
    reference = Statistics.of(normal(5000, 4, 0))
    ratios = []
    for seed in range(10):
        few, many = normal(60, 4, 2 * seed + 1), normal(900, 4, 2 * seed + 2)
        sides = (few, many) if fewer == "generated" else (many, few)
        found = frechet_ratio(*sides, reference)
        assert found["fdr_count"] == 60
        ratios.append(found["fdr"])
    assert 0.6 < np.median(ratios) < 1.7


def test_fdr_is_refused_where_covariances_are_singular_or_the_unit_is_0() -> None:
    reference = Statistics.of(normal(50, 4, 0))
    with pytest.raises(
        UserError,
        match=r"^4 held-out and 60 generated images; expected more than the 4 dimensions of the features on",
    ):
        frechet_ratio(normal(60, 4, 1), normal(4, 4, 2), reference)
    same = torch.zeros(9, 4, dtype=torch.float64)
    with pytest.raises(UserError, match=r"^the held-out images are at the distance 0; expected others than"):
        frechet_ratio(normal(9, 4, 1), same, Statistics.of(same))


def test_cmmd_of_single_embeddings_is_the_kernels_closed_form() -> None:
    """k(x, x) + k(y, y) - 2 k(x, y) for |x - y| = 5, times 1000."""
    made, real = torch.zeros(1, 2).double(), torch.tensor([[3.0, 4.0]]).double()
    assert gaussian_mmd(made, real)["cmmd"] == pytest.approx(1000 * (2 - 2 * np.exp(-25 / 200)), rel=1e-12)
    assert gaussian_mmd(real, real)["cmmd"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("block", [2**21, 7])
def test_cmmd_is_the_biased_estimate_over_all_pairs(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", block)
    made = torch.nn.functional.normalize(normal(23, 5, 0), dim=1)
    real = torch.nn.functional.normalize(normal(31, 5, 1) + 0.5, dim=1)

    def kernel(a: Tensor, b: Tensor) -> float:
        return float(np.exp(-cdist(a.numpy(), b.numpy(), "sqeuclidean") / (2 * 10**2)).mean())

    expected = 1000 * (kernel(made, made) + kernel(real, real) - 2 * kernel(made, real))
    assert gaussian_mmd(made, real)["cmmd"] == pytest.approx(expected, rel=1e-9)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0))
    assert gaussian_mmd(made[order], real)["cmmd"] == pytest.approx(expected, rel=1e-9)
