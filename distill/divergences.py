"""f-divergences as values.

D_f(p||q) = E_q[f(r)], where r = p/q is the density ratio of teacher to student, f is convex and f(1) = 0. The
gradients need h(r) = r^2 f''(r), r h'(r) and r^2 h''(r).

A divergence can be scaled and added: `0.4*forward_kl+0.6*reverse_kl` is one. Every function takes u = log r
and is evaluated in log space, so that float32 neither overflows nor loses precision for u in [-30, 30].
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from distill.config.errors import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    LogRatioFunction = Callable[[Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Divergence:
    """An f-divergence. Every function maps u = log r to a tensor of the same shape."""

    name: str
    f: LogRatioFunction
    """f(r)."""
    h: LogRatioFunction
    """h(r) = r^2 f''(r)."""
    r_h1: LogRatioFunction
    """r h'(r)."""
    r2_h2: LogRatioFunction
    """r^2 h''(r)."""
    uses_ratio: bool = True
    """True if the gradient depends on the density ratio; False if h is constant, as for reverse KL."""

    def __mul__(self, factor: float) -> Divergence:
        """Return a finite, non-negative multiple; a negative factor would make f concave."""
        if not 0 <= factor < math.inf:
            raise ValueError(
                f"a divergence cannot be multiplied by {factor}: expected a finite number of at least 0"
            )
        return Divergence(
            "+".join(_scaled_name(term, factor) for term in _split(self.name)),
            _scaled(self.f, factor),
            _scaled(self.h, factor),
            _scaled(self.r_h1, factor),
            _scaled(self.r2_h2, factor),
            uses_ratio=self.uses_ratio and factor > 0,
        )

    __rmul__ = __mul__

    def __add__(self, other: Divergence) -> Divergence:
        """Return the sum of two divergences."""
        return Divergence(
            f"{self.name}+{other.name}",
            _summed(self.f, other.f),
            _summed(self.h, other.h),
            _summed(self.r_h1, other.r_h1),
            _summed(self.r2_h2, other.r2_h2),
            uses_ratio=self.uses_ratio or other.uses_ratio,
        )


def _scaled(part: LogRatioFunction, factor: float) -> LogRatioFunction:
    return lambda u: factor * part(u)


def _scaled_name(term: str, factor: float) -> str:
    previous, star, name = term.rpartition("*")
    total = factor * float(previous) if star else factor
    return f"{total!r}*{name}"


def _split(text: str) -> list[str]:
    """Split a sum into its terms, but not at the sign of an exponent as in 1e+2."""
    return [term.strip() for term in re.split(r"(?<![eE])\+", text)]


def _summed(a: LogRatioFunction, b: LogRatioFunction) -> LogRatioFunction:
    return lambda u: a(u) + b(u)


def alpha_divergence(alpha: float) -> Divergence:
    """Return a member of the alpha family: f = (r^a - a r - (1 - a)) / (a (a - 1)), h = r^a.

    The limits at 0 and 1 are reverse and forward KL.
    """
    if not math.isfinite(alpha):
        raise ValueError(f"alpha:{alpha}: expected a finite number")

    def f(u: Tensor) -> Tensor:
        if alpha == 0:
            return u.expm1() - u
        if alpha == 1:
            return u.exp() * u - u.expm1()
        return ((alpha * u).expm1() - alpha * u.expm1()) / (alpha * (alpha - 1))

    def power(u: Tensor) -> Tensor:
        return (alpha * u).exp()

    return Divergence(
        f"alpha:{alpha:g}",
        f,
        power,
        _scaled(power, alpha),
        _scaled(power, alpha * (alpha - 1)),
        uses_ratio=alpha != 0,
    )


def _zero(u: Tensor) -> Tensor:
    return u.new_zeros(u.shape)


def _one(u: Tensor) -> Tensor:
    return u.new_ones(u.shape)


def _exp(u: Tensor) -> Tensor:
    return u.exp()


def _sigmoid(u: Tensor) -> Tensor:
    return u.sigmoid()


def _softplus(u: Tensor) -> Tensor:
    from torch.nn.functional import softplus

    return softplus(u)


# Methods of tensors only, so that a configuration is read, and `--help` answers, without importing torch.
# sigmoid(u) = r/(1 + r) and sigmoid(-u) = 1/(1 + r); neither overflows.
TABLE = {
    "reverse_kl": Divergence("reverse_kl", lambda u: -u, _one, _zero, _zero, uses_ratio=False),
    "forward_kl": Divergence("forward_kl", lambda u: u.exp() * u, _exp, _exp, _zero),
    "jeffreys": Divergence("jeffreys", lambda u: u.expm1() * u, lambda u: 1 + u.exp(), _exp, _zero),
    "jensen_shannon": Divergence(
        "jensen_shannon",
        # r log r - (r + 1) log((r + 1)/2), regrouped because r (log r - log(r + 1)) loses digits for large r.
        lambda u: (u.exp() + 1) * math.log(2) - u.exp() * _softplus(-u) - _softplus(u),
        _sigmoid,
        lambda u: u.sigmoid() * (-u).sigmoid(),
        lambda u: -2 * u.sigmoid().square() * (-u).sigmoid(),
    ),
    "softened_reverse_kl": Divergence(
        "softened_reverse_kl",
        lambda u: (u.exp() + 1) * (_softplus(-u) - math.log(2)),
        lambda u: (-u).sigmoid(),
        lambda u: -u.sigmoid() * (-u).sigmoid(),
        lambda u: 2 * u.sigmoid().square() * (-u).sigmoid(),
    ),
    "squared_hellinger": Divergence(
        "squared_hellinger",
        lambda u: -(u / 2).expm1(),
        lambda u: (u / 2).exp() / 4,
        lambda u: (u / 2).exp() / 8,
        lambda u: -(u / 2).exp() / 16,
    ),
    "pearson_chi2": Divergence(
        "pearson_chi2",
        lambda u: u.expm1().square(),
        lambda u: 2 * (2 * u).exp(),
        lambda u: 4 * (2 * u).exp(),
        lambda u: 4 * (2 * u).exp(),
    ),
    "neyman_chi2": Divergence(
        "neyman_chi2",
        lambda u: 4 * (u / 2).sinh().square(),
        lambda u: 2 * (-u).exp(),
        lambda u: -2 * (-u).exp(),
        lambda u: 4 * (-u).exp(),
    ),
}


def parse(text: str) -> Divergence:
    """Read a divergence: a name of the table, `alpha:A`, or a sum of multiples of these.

    Raises ValueError, with the nearest right name, for anything else.
    """
    terms = [_parse_term(term, text) for term in _split(text)]
    if all(factor == 0 for factor, _ in terms):
        raise ValueError(f"'{text}' is 0 everywhere; expected a factor above 0")
    multiples = [divergence if factor == 1 else factor * divergence for factor, divergence in terms]
    return sum(multiples[1:], start=multiples[0])


def _parse_term(term: str, text: str) -> tuple[float, Divergence]:
    factor, star, name = term.rpartition("*")
    name = name.strip()
    if name in TABLE:
        divergence = TABLE[name]
    elif name.startswith("alpha:"):
        divergence = alpha_divergence(_number(name.removeprefix("alpha:"), text))
    else:
        raise ValueError(f"'{name}' is not a divergence{did_you_mean(name, [*TABLE, 'alpha:A'])}")
    return _number(factor, text) if star else 1.0, divergence


def _number(word: str, text: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"'{word.strip()}' in '{text}' is not a number") from None
