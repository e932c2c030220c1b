"""Metrics of features against closed forms, independent implementations, and limits for many images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.frechet import Statistics, frechet_distance
from distill.eval.metrics.frechet_limit import bootstrap_deviation, frechet_limit
from distill.eval.metrics.inception_score import inception_score
from distill.eval.metrics.kernel_distance import kernel_distance, squared_mmd
from distill.eval.metrics.precision_recall import Manifold, density_coverage
from distill.eval.metrics.torchmetrics import (
    DensityCoverage,
    FeatureMetric,
    FrechetLimit,
    InceptionScore,
    KernelDistance,
    PrecisionRecall,
)


def normal(count: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def standard(dimension: int) -> Statistics:
    return Statistics(torch.zeros(dimension).double(), torch.eye(dimension).double(), None)


def test_the_limit_of_a_frechet_distance_has_no_bias_where_the_distance_has() -> None:
    """For n images of the reference distribution the bias is about d(d + 1)/4n + d/n; the limit is 0."""
    dimension, count = 4, 200
    draws = [normal(count, dimension, seed) for seed in range(30)]
    distances = np.array(
        [frechet_distance(Statistics.of(features), standard(dimension)) for features in draws]
    )
    limits = np.array([frechet_limit(features, standard(dimension)).value for features in draws])
    bias = (dimension * (dimension + 1) / 4 + dimension) / count
    assert distances.mean() == pytest.approx(bias, rel=0.1)
    assert abs(limits.mean()) < 3 * limits.std(ddof=1) / 30**0.5
    assert abs(limits.mean()) < 0.5 * distances.mean()


def test_the_line_of_the_limit() -> None:
    limit = frechet_limit(normal(1000, 4, 0) + 1.0, standard(4))
    assert limit.counts[0] == 100
    assert limit.counts[-1] == 1000
    assert len(limit.counts) == 15
    assert np.abs(np.diff(limit.counts) - 900 / 14).max() < 1  # even in n, as published
    assert limit.distances[-1] == pytest.approx(
        frechet_distance(Statistics.of(normal(1000, 4, 0) + 1.0), standard(4))
    )
    _, value = np.polyfit(1 / np.array(limit.counts), limit.distances, 1)
    assert limit.value == pytest.approx(value, rel=1e-9)
    assert abs(limit.value - 4) < 0.5
    with pytest.raises(
        UserError, match=r"^15 images; expected at least 16 for the limit of a distance in 4 dimensions$"
    ):
        frechet_limit(normal(15, 4, 0), standard(4))


def test_bootstrap_spread_is_the_spread_over_draws_of_images() -> None:
    """A mean moved by m in each of d dimensions gives a standard deviation of about 2 m sqrt(d/n).

    In one dimension the distance is about m^2 + 2 m e, with e of variance 1/n.
    """
    draws = [normal(500, 3, seed) + 1.0 for seed in range(40)]
    spread = np.std([frechet_distance(Statistics.of(features), standard(3)) for features in draws], ddof=1)
    found = np.mean([bootstrap_deviation(features, standard(3), 40) for features in draws[:5]])
    assert found == pytest.approx(spread, rel=0.2)
    assert found == pytest.approx(2 * 3**0.5 / 500**0.5, rel=0.2)


def polynomial(a: np.ndarray, b: np.ndarray) -> float:
    return float((a @ b / len(a) + 1) ** 3)


def test_kernel_distance_by_its_definition_and_against_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    a, b = normal(12, 5, 0), normal(9, 5, 1) + 0.3
    pairs = [
        [polynomial(x, y) for y in two.numpy()] for one, two in ((a, a), (b, b), (a, b)) for x in one.numpy()
    ]
    aa, bb, ab = np.array(pairs[:12]), np.array(pairs[12:21]), np.array(pairs[21:])
    expected = (aa.sum() - np.trace(aa)) / (12 * 11) + (bb.sum() - np.trace(bb)) / (9 * 8) - 2 * ab.mean()
    assert squared_mmd(a, b) == pytest.approx(expected, rel=1e-12)
    assert squared_mmd(a[:9], b) == pytest.approx(float(poly_mmd(a[:9], b)), rel=1e-12)


def test_kernel_distance_is_unbiased_and_its_interval_covers() -> None:
    """For one distribution the mean is 0 for any number of images, and most intervals contain it."""
    found = [kernel_distance(normal(100, 4, 2 * seed), normal(80, 4, 2 * seed + 1)) for seed in range(60)]
    kid, deviation = (np.array([one[name] for one in found]) for name in ("kid", "kid_deviation"))
    assert abs(kid.mean()) < 3 * kid.std(ddof=1) / 60**0.5
    assert np.mean(np.abs(kid) < 2.26 * deviation) > 0.85  # Student's t of ten blocks
    assert deviation.mean() == pytest.approx(kid.std(ddof=1), rel=0.3)
    with pytest.raises(UserError, match=r"^19 images; expected at least 20 on both sides"):
        kernel_distance(normal(19, 4, 0), normal(80, 4, 1))
    with pytest.raises(UserError, match=r"^features of 4 and of 3 dimensions"):
        kernel_distance(normal(50, 4, 0), normal(80, 3, 1))


def test_inception_score_in_closed_form() -> None:
    certain = 50.0 * torch.eye(4).double().repeat(30, 1)
    assert inception_score(certain) == {
        "is": pytest.approx(4.0),
        "is_deviation": pytest.approx(0.0, abs=1e-12),
    }
    assert inception_score(torch.zeros(40, 7).double())["is"] == pytest.approx(1.0)
    logits = normal(50, 6, 0)
    p = torch.softmax(logits, 1).reshape(10, 5, 6).numpy()
    scores = np.exp((p * (np.log(p) - np.log(p.mean(1, keepdims=True)))).sum(2).mean(1))
    assert inception_score(logits) == {
        "is": pytest.approx(scores.mean(), rel=1e-12),
        "is_deviation": pytest.approx(scores.std(), rel=1e-12),
    }
    with pytest.raises(UserError, match=r"^9 images; expected at least 10 for an Inception score$"):
        inception_score(logits[:9])


def test_density_and_coverage_by_their_definition() -> None:
    real, made = normal(60, 3, 0), normal(40, 3, 1) * 0.5
    distances = np.linalg.norm(real.numpy()[:, None] - real.numpy()[None], axis=2)
    radius = np.sort(distances, 1)[:, 5]
    across = np.linalg.norm(real.numpy()[:, None] - made.numpy()[None], axis=2)
    found = density_coverage(Manifold.of(real, 5), made)
    assert found["density"] == pytest.approx((across < radius[:, None]).sum() / (5 * 40))
    assert found["coverage"] == pytest.approx((across.min(1) < radius).mean())
    same = density_coverage(Manifold.of(real, 5), real)
    assert same["coverage"] == 1.0


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_metrics_over_two_processes_are_those_of_one_to_the_last_bit(batch_size: int) -> None:
    real, made, rows = normal(150, 6, 0), normal(130, 6, 1), torch.arange(130)
    builders = [
        lambda: PrecisionRecall(real),
        lambda: DensityCoverage(real),
        lambda: KernelDistance(real),
        lambda: FrechetLimit(Statistics.of(real)),
        lambda: InceptionScore(),
    ]
    for build in builders:
        alone = build()
        alone.update(made, rows)
        first, second = build(), build()
        for start in range(0, 130, batch_size):
            (first, second)[start // batch_size % 2].update(
                made[start : start + batch_size], rows[start : start + batch_size]
            )
        assert together(first, second) == alone.compute()


def together(first: FeatureMetric, second: FeatureMetric) -> dict[str, float]:
    """Compute `first` as if torch.distributed gathered from it and `second`."""
    states = [torch.cat(state) if state else torch.zeros(0) for state in (second.features, second.rows)]

    def gather(tensor: Tensor, group: object = None) -> list[Tensor]:
        return [tensor, states[0] if tensor.ndim == 2 else states[1]]

    if not second.features:
        return first.compute()
    first.dist_sync_fn = gather
    first.distributed_available_fn = lambda: True
    return first.compute()


@pytest.mark.parametrize("kind", ["full rank", "rank-deficient", "near-singular"])
def test_frechet_distance_against_fifty_digits(kind: str) -> None:
    """mpmath computes the eigenvalues of the product of the covariances."""
    import mpmath

    dimension = 12
    scales = {
        "full rank": torch.logspace(0, -1, 12),
        "rank-deficient": torch.ones(12),
        "near-singular": torch.logspace(0, -6, 12),
    }[kind].double()
    a, b = (
        (normal(200, dimension, seed) * scales) @ torch.linalg.qr(normal(dimension, dimension, 9)).Q
        for seed in (0, 1)
    )
    if kind == "rank-deficient":
        a, b = a[:8], b[:10]
    b = b + 0.01
    sides = [Statistics.of(side) for side in (a, b)]
    with mpmath.workdps(50):
        matrices = [mpmath.matrix(side.cov.tolist()) for side in sides]
        values = mpmath.eig(matrices[0] * matrices[1], left=False, right=False)
        root = sum(
            mpmath.sqrt(abs(mpmath.re(value))) for value in values if abs(value) > mpmath.mpf(10) ** -30
        )
        traces = sum(matrix[i, i] for matrix in matrices for i in range(dimension))
        expected = float(
            sum(mpmath.mpf(float(x)) ** 2 for x in sides[0].mean - sides[1].mean) + traces - 2 * root
        )
    assert frechet_distance(*sides) == pytest.approx(expected, rel=1e-6)


def prdc(real: np.ndarray, made: np.ndarray, k: int) -> dict[str, float]:
    """Compute density and coverage of Naeem et al. 2020 with open balls."""

    def distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    radii = np.sort(distance(real, real), axis=1)[:, k]
    between = distance(real, made)
    return {
        "density": (between < radii[:, None]).sum() / (k * len(made)),
        "coverage": float((between.min(1) < radii).mean()),
    }


def test_density_and_coverage_are_those_of_their_authors() -> None:
    random = np.random.default_rng(0)
    ties = random.integers(0, 4, (40, 2)).astype(float), random.integers(0, 4, (30, 2)).astype(float)
    cases = [
        (random.normal(size=(40, 3)), random.normal(size=(60, 3))),
        (random.normal(size=(50, 8)), 1.5 * random.normal(size=(30, 8))),
        ties,
    ]
    for real, made in cases:
        found = density_coverage(Manifold.of(torch.from_numpy(real), 5), torch.from_numpy(made))
        assert found == pytest.approx(prdc(real, made, 5), abs=1e-12)


def test_an_exact_copy_of_the_reference_has_a_density_of_one() -> None:
    real = normal(200, 6, 0)
    assert density_coverage(Manifold.of(real, 5), real) == {"density": 1.0, "coverage": 1.0}


def test_the_interval_of_a_kernel_distance_holds_the_truth_as_often_as_it_says() -> None:
    """Both sides have one distribution, so the truth is 0; 1.96 standard errors hold it less often."""
    held = narrow = 0
    for seed in range(300):
        found = kernel_distance(normal(200, 3, 2 * seed), normal(200, 3, 2 * seed + 1))
        low, high = found["kid_interval"]
        assert (low + high) / 2 == pytest.approx(found["kid"])
        # Student's t, 9 degrees of freedom
        assert high - low == pytest.approx(2 * 2.262157 * found["kid_deviation"], rel=1e-5)
        held += low <= 0 <= high
        narrow += abs(found["kid"]) <= 1.96 * found["kid_deviation"]
    assert 0.92 <= held / 300 <= 0.98
    assert narrow < held


@pytest.mark.parametrize("size", [1e3, 1e6, 1e300])
def test_an_inception_score_of_certain_logits_is_the_number_of_classes(size: float) -> None:
    logits = size * torch.eye(4, dtype=torch.float64).repeat(10, 1)
    assert inception_score(logits)["is"] == pytest.approx(4.0)
    assert inception_score(-logits)["is"] == pytest.approx(4 / 3)
    one_class = size * torch.eye(4, dtype=torch.float64)[:1].repeat(40, 1)
    assert inception_score(one_class)["is"] == pytest.approx(1.0)


def test_points_even_in_n_spread_the_limit_less_than_points_even_in_one_over_n() -> None:
    """The same line is fitted through either 15 numbers of images; each draw has 300 images, 4-d."""
    even, inverse = [], []
    for seed in range(60):
        features = normal(300, 4, seed)
        even.append(frechet_limit(features, standard(4)).value)
        counts = np.unique(np.round(1 / np.linspace(1 / 30, 1 / 300, 15)).astype(int))
        order = [np.random.default_rng(count).permutation(300)[:count] for count in counts]
        distances = [
            frechet_distance(Statistics.of(features[torch.from_numpy(rows)]), standard(4)) for rows in order
        ]
        inverse.append(np.polyfit(1 / counts, distances, 1)[1])
    assert np.std(even) < np.std(inverse)
