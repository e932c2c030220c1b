"""Neighbours from bounded float32 products against float64 distances, in cases that are hard for float32."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.metrics import distance_bounds, neighbours
from distill.eval.metrics.distance_bounds import MAX_DIMENSION, Frame, RoundedFeatures
from distill.eval.metrics.neighbours import nearest_others
from distill.eval.metrics.precision_recall import (
    Manifold,
    density_coverage,
    neighbourhoods,
    precision_recall,
)


def draw(count: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_distances(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] - b[None]).square().sum(2)


def reference(real: Tensor, made: Tensor) -> dict[str, float]:
    """Compute the four shares from the matrix of all float64 distances."""

    def radii(side: Tensor, k: int) -> tuple[Tensor, Tensor]:
        rounding = 2 * side.shape[1] * torch.finfo(torch.float64).eps * side.square().sum(1).max()
        return all_distances(side, side).fill_diagonal_(torch.inf).sort(1).values[:, k - 1], rounding

    across = all_distances(made, real)
    (near, slack), (wide, _), (around, made_slack) = radii(real, 3), radii(real, 5), radii(made, 3)
    inside = across < wide - slack
    return {
        "precision": float((across <= near + slack).any(1).double().mean()),
        "recall": float((across <= (around + made_slack)[:, None]).any(0).double().mean()),
        "density": int(inside.sum()) / (5 * len(made)),
        "coverage": float(inside.any(0).double().mean()),
    }


def nearly_tied(count: int, seed: int) -> Tensor:
    """Corners of simplices whose edges differ in the twelfth digit, which float32 cannot tell apart."""
    corners = torch.eye(count, 40, dtype=torch.float64) + 1e-12 * draw(count, 40, seed)
    return torch.cat([corners, corners + 10])


CASES = {
    "normal": (draw(70, 16, 0), 0.8 * draw(90, 16, 1) + 0.2),
    "far from zero": (draw(70, 16, 0) + 1e5, 0.8 * draw(90, 16, 1) + 1e5),
    "beyond the range of float32": (1e60 * draw(70, 16, 0), 1e60 * draw(90, 16, 1)),
    "below the range of float32": (1e-60 * draw(70, 16, 0), 1e-60 * draw(90, 16, 1)),
    "sizes from 1e-30 to 1": (
        draw(70, 8, 0) * torch.logspace(0, -30, 70).double()[:, None],
        draw(90, 8, 1) * torch.logspace(0, -30, 90).double()[:, None],
    ),
    "nearly tied": (nearly_tied(40, 0), nearly_tied(40, 1)),
    "copies of the reference": (draw(70, 16, 0), draw(70, 16, 0)),
    "all images equal": (draw(70, 16, 0), draw(1, 16, 1).repeat(60, 1)),
    "all images of both sides equal": (torch.ones(70, 3).double(), torch.ones(60, 3).double()),
    "grid": tuple(
        torch.randint(0, 3, (count, 4), generator=torch.Generator().manual_seed(count)).double()
        for count in (80, 75)
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("tile", [7, 1024])
def test_shares_are_those_of_float64(name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance_bounds, "TILE", tile)
    monkeypatch.setattr(distance_bounds, "PAIRS_AT_ONCE", 100)
    real, made = CASES[name]
    expected = reference(real, made)
    assert neighbourhoods(real, made) == expected
    near, around = Manifold.of(real), Manifold.of(made)
    assert {**precision_recall(near, around), **density_coverage(Manifold.of(real, 5), made)} == expected
    assert float(near.contains(made).double().mean()) == expected["precision"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("most", [0, 50, 2**22])
def test_nearest_others_are_those_of_float64(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distance_bounds, "TILE", 9)
    monkeypatch.setattr(neighbours, "MAX_PAIRS", most)
    features = CASES[name][1]
    expected = all_distances(features, features).fill_diagonal_(torch.inf).sort(1).values[:, :4]
    torch.testing.assert_close(nearest_others(features, 4), expected, rtol=1e-14, atol=0)


def test_shares_do_not_depend_on_the_order_of_images() -> None:
    real, made = CASES["nearly tied"]
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(0))
    assert neighbourhoods(real, made[order]) == neighbourhoods(real, made)


@pytest.mark.parametrize("name", [name for name in CASES if name != "sizes from 1e-30 to 1"])
def test_bounds_hold_in_exact_arithmetic(name: str) -> None:
    features = CASES[name][0][:12]
    frame = Frame.of(features)
    side = RoundedFeatures.of(features, frame)
    lower, upper = side.bounds(slice(0, 12), side, slice(0, 12))
    exact = [[Fraction(x) for x in row] for row in features.tolist()]
    scale = Fraction(frame.scale)
    for i, a in enumerate(exact):
        for j, b in enumerate(exact):
            distance = sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) * scale * scale
            assert Fraction(float(lower[i, j])) <= distance <= Fraction(float(upper[i, j]))


def test_bounds_are_narrow() -> None:
    """In 2048 dimensions they leave about one distance in a thousand open, for a radius in the middle."""
    features = draw(200, 2048, 0)
    frame = Frame.of(features)
    side = RoundedFeatures.of(features, frame)
    lower, upper = side.bounds(slice(0, 100), side, slice(100, 200))
    exact = all_distances(features[:100], features[100:]) * frame.scale**2
    width = (upper - lower).double() / exact
    assert width.max() < 3 * 2048 * 2.0**-24 * 1.3
    assert (lower.double() <= exact).all()
    assert (exact <= upper.double()).all()


def test_the_scale_of_subnormal_features_is_a_number() -> None:
    features = draw(9, 3, 0) * 1e-310
    frame = Frame.of(features)
    assert frame.scale == 2.0**1023
    assert nearest_others(features, 2).eq(0).all()  # the squares are below the range of float64


def test_too_many_dimensions_are_refused() -> None:
    features = torch.zeros(1, 1, dtype=torch.float64).expand(4, MAX_DIMENSION + 1)
    with pytest.raises(UserError, match=r"^features of 4194305 dimensions; expected at most 4194304"):
        RoundedFeatures.of(features, Frame(torch.zeros(1, dtype=torch.float64), 1.0))
