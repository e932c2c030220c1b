"""Random numbers that are functions of a seed, a step, a sample and a purpose.

The bits are those of Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a
generator without a state. A process draws the numbers of its own samples only, and they do not depend on how
many processes there are.

Everything is computed by integers, table look-ups and exact conversions, so that the numbers are the same to
the bit on every device, compiled or not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from distill.config.errors import TrainingError

Word = TypeVar("Word", int, Tensor)
Counter = tuple[Tensor, Tensor, Tensor, Tensor]
Draw = Callable[..., Tensor]

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

SEGMENT_BITS = 5
"""Each power of two of the probability has 2^5 segments, with a cubic polynomial in each."""
POSITION_BITS = 31 - SEGMENT_BITS
"""Bits of the position in a segment."""
FRACTION_BITS = 32
"""Bits behind the point of normal numbers. The largest, 6.34, and a position fit together in 61 bits."""
MAX_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 22}
"""Numbers that are drawn at once on a kind of device: as many as its caches, or its memory, hold well."""


@dataclasses.dataclass(frozen=True)
class CounterRandom:
    """The random numbers of one step of a run with this seed, for purposes and samples by their numbers.

    A seed has up to 64 bits; steps, samples and purposes have up to 32. `compiled` fuses the computation
    into one kernel, after some seconds in the first call.
    """

    seed: int
    step: int
    compiled: bool = False

    def normal(
        self, purposes: Sequence[int], samples: Int64[Tensor, " b"], size: int
    ) -> Float[Tensor, "purposes b size"]:
        """Draw `size` numbers from N(0, 1) for each purpose and sample, on the samples' device."""
        rows = max(1, MAX_AT_ONCE.get(samples.device.type, 1 << 18) // (size * max(1, len(purposes))))
        table, dtype = quantile_table(samples.device), torch.get_default_dtype()
        parts = [
            self._draw(_normal, purposes, part, size, table, dtype) for part in torch.split(samples, rows)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def uniform(
        self, purposes: Sequence[int], samples: Int64[Tensor, " b"], size: int = 1
    ) -> Float[Tensor, "purposes b size"]:
        """Draw uniform float32 numbers strictly inside (0, 1), where every quantile function is finite."""
        bits = self._draw(_bits, purposes, samples, size)
        return ((bits.double() + 0.5) * 2.0**-32).clamp(1e-7, 1 - 1e-7).float()

    def below(self, bound: int, purpose: int, samples: Int64[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Draw a whole number from 0 to `bound` - 1 for each sample; `bound` is at most 2^31.

        The probabilities are equal up to 2^-32.
        """
        return self._draw(_bits, (purpose,), samples, 1)[0, :, 0] * bound >> 32

    def of_step(self, bound: int, purpose: int) -> int:
        """Draw one whole number from 0 to `bound` - 1 for all samples of the step, on the host."""
        return philox((0, 0, self.step, int(purpose)), self._key)[0] * bound >> 32

    @property
    def _key(self) -> tuple[int, int]:
        return self.seed & WORD, self.seed >> 32 & WORD

    def _draw(
        self, draw: Draw, purposes: Sequence[int], samples: Tensor, size: int, *settings: object
    ) -> Tensor:
        """Call a function of counters, key and size, compiled if that is asked for."""
        device = samples.device
        counter = (
            _numbers(tuple(range(-(-size // 4))), device),
            samples[:, None],
            torch.full((), self.step, dtype=torch.int64, device=device),
            _numbers(tuple(purposes), device)[:, None, None],
        )
        if self.compiled:
            return _draw_compiled(draw, counter, self._key, size, *settings)
        return draw(counter, self._key, size, *settings)


@functools.lru_cache(maxsize=256)
def _numbers(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(numbers, device=device)


def _bits(counter: Counter, key: tuple[int, int], size: int) -> Tensor:
    """Draw `size` words of 32 random bits for each counter of block, sample, step and purpose."""
    return torch.stack(philox(counter, key), -1).flatten(-2)[..., :size]


def _normal(counter: Counter, key: tuple[int, int], size: int, table: Tensor, dtype: torch.dtype) -> Tensor:
    return normal_from_bits(_bits(counter, key, size), table).to(dtype) * 2.0**-FRACTION_BITS


def _draw_compiled(draw: Draw, counter: Counter, *settings: object) -> Tensor:
    """Call a compiled function; its first result for each shape must be that of the function itself.

    A compiler that takes a word for a number of 32 bits, as has been seen, would change a run's noise.
    """
    drawn = _compiled(draw)(counter, *settings)
    form = (draw, drawn.shape, drawn.device)
    if form not in _CHECKED:
        if not torch.equal(drawn, draw(counter, *settings)):
            raise TrainingError(
                f"compile: torch.compile changes random numbers on {drawn.device}; expected none"
            )
        _CHECKED.add(form)
    return drawn


_CHECKED: set[tuple[object, ...]] = set()


@functools.cache
def _compiled(draw: Draw) -> Draw:
    return torch.compile(draw, dynamic=False)


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[int, int]) -> tuple[Word, Word, Word, Word]:
    """Return four words of 32 random bits for each counter of four words.

    Words are int64 tensors of values below 2^32, which broadcast against each other, or Python's numbers.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        low0, high0 = _multiply(c0, MULTIPLIERS[0])
        low1, high1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ (c1 ^ k0), low1, high0 ^ (c3 ^ k1), low0
        k0, k1 = k0 + KEY_STEPS[0] & WORD, k1 + KEY_STEPS[1] & WORD
    return c0, c1, c2, c3


def _multiply(word: Word, factor: int) -> tuple[Word, Word]:
    """Return the low and the high word of a product of two words."""
    if torch.compiler.is_compiling():
        return _multiply_by_halves(word, factor)
    product = word * factor  # modulo 2^64, as a signed number with the same bits
    return product & WORD, product >> 32 & WORD


def _multiply_by_halves(word: Word, factor: int) -> tuple[Word, Word]:
    """Return the same without a product beyond 2^63, of which compilers of C++ assume that there is none."""
    low = (word & 0xFFFF) * factor
    middle = (word >> 16) * factor + (low >> 16)
    return (middle & 0xFFFF) << 16 | low & 0xFFFF, middle >> 16


def normal_from_bits(bits: Tensor, table: Tensor) -> Tensor:
    """Turn words of 32 random bits into numbers from N(0, 1) in units of 2^-32, exact to 1e-8, all int64.

    One bit is the sign. The other bits choose the probability p of a larger magnitude, from 2^-33 to 1/2, in
    steps of 2^-32. `table` has the polynomials of `quantile_table`.
    """
    odd = (bits & 0x7FFFFFFF) * 2 + 1  # p = odd / 2^33
    pattern = odd.double().view(torch.int64)  # exponent, segment and position
    position = (pattern >> 52 - SEGMENT_BITS - POSITION_BITS) & (1 << POSITION_BITS) - 1
    segment = (pattern >> 52 - SEGMENT_BITS) - (1023 << SEGMENT_BITS)
    value = table[3].take(segment)
    for power in (2, 1, 0):
        value = table[power].take(segment) + (value * position >> POSITION_BITS)
    return value * (1 - (bits >> 31) * 2)


@functools.cache
def quantile_table(device: torch.device) -> Int64[Tensor, "4 segments"]:
    """Return the coefficients of the magnitude as a cubic polynomial of the position in each segment.

    The polynomials have the values and slopes of the normal distribution's quantile function at the ends of
    their segment (cubic Hermite interpolation).
    """
    import numpy as np
    from scipy.special import ndtri

    segments = np.arange(32 << SEGMENT_BITS)
    octave = 2.0 ** (segments >> SEGMENT_BITS) / 2**33
    width = octave / 2**SEGMENT_BITS
    start = octave + width * (segments % 2**SEGMENT_BITS)
    low, high = -ndtri(start), -ndtri(start + width)
    # The derivative of the quantile function is one over the density.
    low_slope, high_slope = (-width * np.sqrt(2 * np.pi) * np.exp(z**2 / 2) for z in (low, high))
    rise = high - low
    table = np.stack(
        [low, low_slope, 3 * rise - 2 * low_slope - high_slope, low_slope + high_slope - 2 * rise]
    )
    fixed_point = np.rint(table * 2.0**FRACTION_BITS).astype(np.int64)
    return torch.from_numpy(fixed_point).to(device)
