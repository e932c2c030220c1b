"""Divergences against autograd of f(r) as the literature writes it, their precision, and their names."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill.divergences import TABLE, Divergence, alpha_divergence, parse
from tests.helpers.closed_form import DOUBLE

F_OF_R: dict[str, Callable[[Tensor], Tensor]] = {
    "reverse_kl": lambda r: -r.log(),
    "forward_kl": lambda r: r * r.log(),
    "jeffreys": lambda r: (r - 1) * r.log(),
    "jensen_shannon": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "softened_reverse_kl": lambda r: (r + 1) * ((r + 1) / (2 * r)).log(),
    "squared_hellinger": lambda r: 1 - r.sqrt(),
    "pearson_chi2": lambda r: (r - 1) ** 2,
    "neyman_chi2": lambda r: (1 - r) ** 2 / r,
    "alpha:0": lambda r: r - 1 - r.log(),
    "alpha:0.5": lambda r: 2 + 2 * r - 4 * r.sqrt(),
    "alpha:1": lambda r: r * r.log() - r + 1,
    "alpha:1.5": lambda r: (r**1.5 - 1.5 * r + 0.5) / 0.75,
    "alpha:2": lambda r: (r - 1) ** 2 / 2,
    "alpha:-1": lambda r: (1 / r + r - 2) / 2,
    "0.4*forward_kl+0.6*reverse_kl": lambda r: 0.4 * r * r.log() - 0.6 * r.log(),
}
U = torch.linspace(-30, 30, 2401, dtype=torch.float32)
CHOICES = ", ".join(sorted([*TABLE, "alpha:A"]))
FINITE = "expected a finite number of at least 0"


def test_every_divergence_of_the_table_is_tested() -> None:
    assert set(TABLE) == {name for name in F_OF_R if ":" not in name and "*" not in name}
    assert all(divergence.name == name for name, divergence in TABLE.items())


@pytest.mark.parametrize("name", F_OF_R)
def test_functions_are_the_derivatives_of_f(name: str) -> None:
    divergence, f = parse(name), F_OF_R[name]
    u = torch.linspace(-4, 4, 81, dtype=DOUBLE)
    r = u.exp().requires_grad_()
    value = f(r)
    (first,) = torch.autograd.grad(value.sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r, create_graph=True)
    h = r**2 * second
    (h1,) = torch.autograd.grad(h.sum(), r, create_graph=True)
    h2 = torch.autograd.grad(h1.sum(), r)[0] if h1.requires_grad else torch.zeros_like(r)
    expected = {"f": value, "h": h, "r_h1": r * h1, "r2_h2": r**2 * h2}
    for part, exact in expected.items():
        actual = getattr(divergence, part)(u)
        error = ((actual - exact).abs() / (exact.abs() + h.abs())).max().item()
        assert error <= 1e-10, f"{part} of {name}: relative error {error:.1e}"


@pytest.mark.parametrize("name", F_OF_R)
def test_own_f_differentiates_to_h(name: str) -> None:
    divergence = parse(name)
    u = torch.linspace(-4, 4, 81, dtype=DOUBLE, requires_grad=True)
    (first,) = torch.autograd.grad(divergence.f(u).sum(), u, create_graph=True)
    second = torch.autograd.grad(first.sum(), u)[0] if first.requires_grad else torch.zeros_like(u)
    torch.testing.assert_close((second - first).detach(), divergence.h(u.detach()), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", F_OF_R)
def test_divergence_of_equals_is_zero_and_f_is_convex(name: str) -> None:
    divergence = parse(name)
    assert divergence.f(torch.zeros(1, dtype=DOUBLE)).abs().item() <= 1e-15
    assert divergence.h(U.double()).min().item() > 0


@pytest.mark.parametrize("name", F_OF_R)
def test_float32_keeps_the_answer(name: str) -> None:
    divergence = parse(name)
    for part in ("f", "h", "r_h1", "r2_h2"):
        function = getattr(divergence, part)
        single, double = function(U), function(U.double())
        assert single.dtype == torch.float32
        assert single.isfinite().all()
        floor = 1e-6 if part == "f" else 0.0
        excess = ((single.double() - double).abs() - 1e-5 * double.abs() - floor).max().item()
        assert excess <= 0, f"{part} of {name} is {excess:.1e} further from float64 than allowed"


@pytest.mark.parametrize(
    ("alpha", "name", "factor"),
    [
        (0.0, "reverse_kl", 1.0),
        (0.5, "squared_hellinger", 4.0),
        (1.0, "forward_kl", 1.0),
        (2.0, "pearson_chi2", 0.5),
        (-1.0, "neyman_chi2", 0.5),
    ],
)
def test_alpha_family_contains_the_named(alpha: float, name: str, factor: float) -> None:
    """They agree up to a multiple of r - 1 in f, which adds nothing to E_q[f(r)]."""
    member, named = alpha_divergence(alpha), factor * TABLE[name]
    u = torch.linspace(-4, 4, 81, dtype=DOUBLE)
    for part in ("h", "r_h1", "r2_h2"):
        torch.testing.assert_close(getattr(member, part)(u), getattr(named, part)(u), rtol=1e-13, atol=1e-15)
    slope = ((member.f(u) - named.f(u)) / torch.expm1(u))[u != 0]
    torch.testing.assert_close(slope, slope[:1].expand_as(slope), rtol=1e-10, atol=1e-10)


def test_alpha_family_is_continuous_at_its_limits() -> None:
    u = torch.linspace(-4, 4, 81, dtype=DOUBLE)
    for limit in (0.0, 1.0):
        near, at = alpha_divergence(limit + 1e-7), alpha_divergence(limit)
        for part in ("f", "h", "r_h1", "r2_h2"):
            torch.testing.assert_close(getattr(near, part)(u), getattr(at, part)(u), rtol=1e-5, atol=1e-5)


def assert_same(a: Divergence, b: Divergence) -> None:
    u = torch.linspace(-4, 4, 81, dtype=DOUBLE)
    for part in ("f", "h", "r_h1", "r2_h2"):
        torch.testing.assert_close(getattr(a, part)(u), getattr(b, part)(u), rtol=1e-14, atol=1e-14)


def test_combinations_add_part_by_part() -> None:
    mixed = 0.4 * TABLE["forward_kl"] + TABLE["jensen_shannon"] * 0.6
    u = torch.linspace(-4, 4, 81, dtype=DOUBLE)
    for part in ("f", "h", "r_h1", "r2_h2"):
        forward_kl, jensen_shannon = (
            getattr(TABLE[name], part)(u) for name in ("forward_kl", "jensen_shannon")
        )
        expected = 0.4 * forward_kl + 0.6 * jensen_shannon
        torch.testing.assert_close(getattr(mixed, part)(u), expected, rtol=1e-14, atol=0)
    assert mixed.name == "0.4*forward_kl+0.6*jensen_shannon"
    assert_same(parse(mixed.name), mixed)


def test_ratio_is_needed_unless_h_is_constant() -> None:
    needs = {
        name: parse(name).uses_ratio
        for name in (*F_OF_R, "0*forward_kl+reverse_kl", "2*reverse_kl+3*alpha:0")
    }
    assert [name for name, uses_ratio in needs.items() if not uses_ratio] == [
        "reverse_kl",
        "alpha:0",
        "0*forward_kl+reverse_kl",
        "2*reverse_kl+3*alpha:0",
    ]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("forward_kl", TABLE["forward_kl"]),
        ("alpha:1.5", alpha_divergence(1.5)),
        ("alpha:-1", alpha_divergence(-1.0)),
        ("alpha:1.5e-1", alpha_divergence(0.15)),
        ("  0.4 * forward_kl + 0.6 * reverse_kl ", 0.4 * TABLE["forward_kl"] + 0.6 * TABLE["reverse_kl"]),
        ("1e+1*forward_kl+2E+0*reverse_kl", 10.0 * TABLE["forward_kl"] + 2.0 * TABLE["reverse_kl"]),
        ("1e-1*jeffreys+jeffreys", 1.1 * TABLE["jeffreys"]),
        (
            "2*alpha:1e+0+pearson_chi2+.5*alpha:0",
            2.0 * alpha_divergence(1.0) + TABLE["pearson_chi2"] + 0.5 * alpha_divergence(0.0),
        ),
    ],
)
def test_parse_reads(text: str, same: Divergence) -> None:
    assert_same(parse(text), same)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forwrd_kl", "'forwrd_kl' is not a divergence; did you mean 'forward_kl'?"),
        ("0.4*forward_kl+0.6*revers_kl", "'revers_kl' is not a divergence; did you mean 'reverse_kl'?"),
        ("alpha1.5", "'alpha1.5' is not a divergence; did you mean 'alpha:A'?"),
        ("", f"'' is not a divergence; expected one of: {CHOICES}"),
        ("reverse_kl+", f"'' is not a divergence; expected one of: {CHOICES}"),
        ("half*forward_kl", "'half' in 'half*forward_kl' is not a number"),
        ("2*3*forward_kl", "'2*3' in '2*3*forward_kl' is not a number"),
        ("*forward_kl", "'' in '*forward_kl' is not a number"),
        ("alpha:two", "'two' in 'alpha:two' is not a number"),
        ("alpha:nan", "alpha:nan: expected a finite number"),
        ("-0.5*forward_kl", f"a divergence cannot be multiplied by -0.5: {FINITE}"),
        ("nan*forward_kl", f"a divergence cannot be multiplied by nan: {FINITE}"),
    ],
)
def test_parse_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse(text)


def test_infinite_factor_is_refused() -> None:
    with pytest.raises(ValueError, match="a divergence cannot be multiplied by inf"):
        parse("inf*forward_kl")


@pytest.mark.parametrize("divergence", [2.0 * parse("forward_kl+reverse_kl"), 2.0 * parse("3*forward_kl")])
def test_name_reads_back(divergence: Divergence) -> None:
    assert_same(parse(divergence.name), divergence)
