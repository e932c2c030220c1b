"""Counter-based random numbers against published vectors and the exact quantile function."""

import hashlib

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import kstest

from distill.config.errors import TrainingError
from distill.diffusion.counter_random import (
    FRACTION_BITS,
    MULTIPLIERS,
    CounterRandom,
    _multiply_by_halves,
    normal_from_bits,
    philox,
    quantile_table,
)

CPU = torch.device("cpu")
ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES,) * 4, (ONES, ONES), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: str
) -> None:
    """These are the known answers of philox4x32-10 in Random123, the authors' library."""
    words = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert " ".join(f"{word.item():08x}" for word in words) == expected


def test_normal_numbers_are_the_exact_quantiles_of_their_bits() -> None:
    random = torch.Generator().manual_seed(0)
    edges = torch.tensor([0, 1, 0x7FFFFFFF, 0x80000000, ONES])
    bits = torch.cat([edges, torch.arange(1 << 16), torch.randint(1 << 32, (300_000,), generator=random)])
    found = normal_from_bits(bits, quantile_table(CPU)).double() * 2.0**-FRACTION_BITS
    p = ((bits & 0x7FFFFFFF).double() + 0.5) / 2**32
    expected = -ndtri(p.numpy()) * np.where(bits.numpy() >> 31, -1, 1)
    assert np.abs(found.numpy() - expected).max() < 1e-8


def test_normal_numbers_have_the_normal_distribution() -> None:
    drawn = CounterRandom(7, 0).normal((0,), torch.arange(500), 2000).flatten().numpy()
    assert kstest(drawn, "norm").pvalue > 0.01
    assert abs(drawn.mean()) < 0.003
    assert abs((drawn**2).mean() - 1) < 0.004
    assert abs((drawn**4).mean() - 3) < 0.03


def test_the_quantile_table_is_the_same_on_every_machine() -> None:
    """A run repeats to the bit on another machine only if the table does."""
    digest = hashlib.sha256(quantile_table(CPU).numpy().tobytes()).hexdigest()
    assert digest.startswith("34bb9df5d6c00372")


def test_a_sample_s_numbers_do_not_depend_on_the_samples_beside_it() -> None:
    random = CounterRandom(3, 5)
    whole = random.normal((0, 1), torch.arange(64), 30)
    for first, last in ((0, 1), (5, 20), (40, 64)):
        assert torch.equal(random.normal((0, 1), torch.arange(first, last), 30), whole[:, first:last])
    assert torch.equal(random.normal((1,), torch.arange(64), 30)[0], whole[1])
    assert torch.equal(random.normal((0, 1), torch.arange(64), 9), whole[..., :9])


def test_large_draws_are_those_of_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    random = CounterRandom(3, 5)
    whole = random.normal((0, 1), torch.arange(64), 30)
    monkeypatch.setattr("distill.diffusion.counter_random.MAX_AT_ONCE", {"cpu": 100})
    assert torch.equal(random.normal((0, 1), torch.arange(64), 30), whole)


def test_compiled_normal_numbers_are_equal_to_the_bit(unchecked: None) -> None:
    plain, compiled = CounterRandom(3, 9), CounterRandom(3, 9, compiled=True)
    samples = torch.arange(16)
    assert torch.equal(compiled.normal((0, 2), samples, 40), plain.normal((0, 2), samples, 40))


@pytest.mark.slow
def test_compiled_numbers_of_all_kinds_are_equal_to_the_bit(unchecked: None) -> None:
    samples = torch.arange(16)
    for step in (0, 9):
        plain, compiled = CounterRandom(3, step), CounterRandom(3, step, compiled=True)
        for size in (1, 4, 40):  # of one block of four words, and of several
            assert torch.equal(compiled.normal((0, 2), samples, size), plain.normal((0, 2), samples, size))
        assert torch.equal(compiled.uniform((4,), samples, 2), plain.uniform((4,), samples, 2))
        assert torch.equal(compiled.below(7, 5, samples), plain.below(7, 5, samples))


def test_a_product_by_halves_is_the_product() -> None:
    for word in (0, 1, 0xFFFF, 0x10000, 0x80000000, ONES, 0xD2511F53):
        for factor in MULTIPLIERS:
            low, high = _multiply_by_halves(word, factor)
            assert high << 32 | low == word * factor


def test_a_compiler_that_changes_the_numbers_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "distill.diffusion.counter_random._compiled", lambda draw: lambda *given: draw(*given) + 1
    )
    with pytest.raises(TrainingError, match=r"compile: torch\.compile changes random numbers on cpu"):
        CounterRandom(3, 0, compiled=True).normal((0,), torch.arange(7), 31)


@pytest.mark.parametrize("other", [(4, 5, 0), (3, 6, 0), (3, 5, 1), (3 + 2**32, 5, 0)])
def test_other_seeds_steps_and_purposes_give_unrelated_numbers(other: tuple[int, int, int]) -> None:
    samples = torch.arange(200)
    seed, step, purpose = other
    found = CounterRandom(seed, step).normal((purpose,), samples, 50).flatten()
    first = CounterRandom(3, 5).normal((0,), samples, 50).flatten()
    assert abs(torch.corrcoef(torch.stack([found, first]))[0, 1].item()) < 0.04


def test_uniform_numbers_are_uniform_and_inside_their_interval() -> None:
    drawn = CounterRandom(0, 0).uniform((3,), torch.arange(20_000), 2).flatten()
    assert drawn.dtype == torch.float32
    assert 0 < drawn.min() < drawn.max() < 1
    assert kstest(drawn.numpy(), "uniform").pvalue > 0.01


def test_whole_numbers_are_uniform_below_their_bound() -> None:
    drawn = CounterRandom(0, 0).below(10, 3, torch.arange(20_000))
    assert (drawn.bincount(minlength=10) / 20_000 - 0.1).abs().max() < 0.008
    assert CounterRandom(0, 0).below(2**31, 3, torch.arange(1000)).max() > 2**30


def test_numbers_follow_the_default_type() -> None:
    single = CounterRandom(0, 0).normal((0,), torch.arange(4), 8)
    torch.set_default_dtype(torch.float64)
    try:
        double = CounterRandom(0, 0).normal((0,), torch.arange(4), 8)
    finally:
        torch.set_default_dtype(torch.float32)
    assert double.dtype == torch.float64
    assert torch.equal(double.float(), single)


def test_numbers_of_a_step_are_those_of_its_first_sample() -> None:
    drawn = [CounterRandom(5, step).of_step(3, 11) for step in range(600)]
    assert drawn[:20] == [int(CounterRandom(5, step).below(3, 11, torch.arange(1))) for step in range(20)]
    assert abs(torch.tensor(drawn).bincount(minlength=3) - 200).max() < 40
