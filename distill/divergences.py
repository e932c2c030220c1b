"""f-divergences as values: D_f(p||q) = E_q[f(r)], r = p/q teacher over student, f convex, f(1) = 0.

A divergence can be scaled and added, so `0.4*forward_kl+0.6*reverse_kl` is one. Each function takes u = log r and is evaluated in log space,
so float32 neither overflows nor loses the answer for u in [-30, 30]. With h(r) = r^2 f''(r), the gradients need h, r h' and r^2 h''.
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
    """An f-divergence. Every function maps u = log r to a tensor of the same shape.

    `uses_ratio` is False where h is constant, so that no density ratio is needed (reverse KL).
    """

    name: str
    f: LogRatioFunction
    h: LogRatioFunction
    r_h1: LogRatioFunction
    """r h'(r)."""
    r2_h2: LogRatioFunction
    """r^2 h''(r)."""
    uses_ratio: bool = True

    def __mul__(self, factor: float) -> Divergence:
        """A non-negative multiple. Raises ValueError for a negative factor, whose f would not be convex, and for an infinite one."""
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
    before, star, name = term.rpartition("*")
    return f"{factor * float(before) if star else factor!r}*{name}"


def _split(text: str) -> list[str]:
    """The terms of a sum; the sign of an exponent, as in 1e+2, is none."""
    return [term.strip() for term in re.split(r"(?<![eE])\+", text)]


def _summed(a: LogRatioFunction, b: LogRatioFunction) -> LogRatioFunction:
    return lambda u: a(u) + b(u)


def alpha_divergence(alpha: float) -> Divergence:
    """The alpha family, f = (r^a - a r - (1 - a)) / (a (a - 1)), h = r^a: reverse KL at 0, forward KL at 1 (by their limits)."""
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


# Written with methods of tensors, so that settings are read, and `train.py --help` answers, without torch.
# sigmoid(u) = r/(1 + r) and sigmoid(-u) = 1/(1 + r), neither of which overflows.
TABLE = {
    "reverse_kl": Divergence("reverse_kl", lambda u: -u, _one, _zero, _zero, uses_ratio=False),
    "forward_kl": Divergence("forward_kl", lambda u: u.exp() * u, _exp, _exp, _zero),
    "jeffreys": Divergence("jeffreys", lambda u: u.expm1() * u, lambda u: 1 + u.exp(), _exp, _zero),
    "jensen_shannon": Divergence(
        "jensen_shannon",
        # r log r - (r + 1) log((r + 1)/2), regrouped: r (log r - log(r + 1)) cancels badly for large r when written out.
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
    """Read a divergence: a name of the table, `alpha:A`, or a sum of non-negative multiples such as `0.4*forward_kl+0.6*reverse_kl`.

    Raises ValueError, with the nearest right name, for anything else.
    """
    found = [_parse_term(term, text) for term in _split(text)]
    if not any(factor for factor, _ in found):
        raise ValueError(f"'{text}' is 0 everywhere; expected a factor above 0")
    first, *others = (divergence if factor == 1 else factor * divergence for factor, divergence in found)
    return sum(others, start=first)


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
