"""The density ratio's clamping and running normalisation."""

import pytest
import torch

from distill.divergences import parse
from distill.objectives.density_ratio import DensityRatio, RunningMean


def identity(total: torch.Tensor) -> torch.Tensor:
    return total


def test_a_ratio_without_normalisation_is_the_clamped_logit() -> None:
    ratio = DensityRatio(parse("forward_kl"), low=0.1, high=20.0, normalise=False)
    logits = torch.tensor([-9.0, 0.5, 9.0])
    expected = torch.tensor([0.1, 1.6487213, 20.0]).log()
    torch.testing.assert_close(ratio(logits, torch.full((3,), 0.5)), expected)


@pytest.mark.parametrize("split", [[1] * 8, [8], [3, 5], [2, 2, 4]])
def test_the_normalisation_does_not_depend_on_how_a_batch_is_split(split: list[int]) -> None:
    """The values of `[8]` are worked out by hand in the next test; every split must give the same."""
    torch.manual_seed(0)
    whole, parts = (DensityRatio(parse("forward_kl"), bins=4, decay=0.9) for _ in range(2))
    for _ in range(5):
        logits, u = torch.randn(8), torch.rand(8)
        expected = whole(logits, u)
        found = torch.cat([parts(a, b) for a, b in zip(logits.split(split), u.split(split), strict=True)])
        torch.testing.assert_close(found, expected)
        whole.commit(identity)
        parts.commit(identity)
        torch.testing.assert_close(parts.scale, whole.scale)


def test_two_processes_that_sum_their_halves_agree_with_one() -> None:
    values, bins = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([0, 0, 1, 1])
    one, first, second = (RunningMean(2, decay=0.5) for _ in range(3))
    one.add(values, bins)
    first.add(values[:2], bins[:2])
    second.add(values[2:], bins[2:])
    shared = first.pending + second.pending
    one.commit(identity)
    first.commit(lambda total: shared)
    assert one.mean().tolist() == first.mean().tolist() == [1.5, 4.5]


def test_a_batch_of_one_is_weighed_by_the_past_and_not_by_itself() -> None:
    ratio = DensityRatio(parse("forward_kl"), bins=1, decay=0.0)
    u = torch.tensor([0.3])
    assert ratio(torch.tensor([2.0]).log(), u).exp().item() == pytest.approx(
        2.0
    )  # nothing seen yet: the mean is one
    ratio.commit(identity)
    assert ratio(torch.tensor([6.0]).log(), u).exp().item() == pytest.approx(3.0)
    ratio.commit(identity)
    assert ratio(torch.tensor([6.0]).log(), u).exp().item() == pytest.approx(1.0)


def test_the_mean_ratio_of_every_bin_tends_to_one() -> None:
    random = torch.Generator().manual_seed(0)
    ratio = DensityRatio(parse("reverse_kl"), bins=5, decay=0.9)
    for _ in range(60):
        u = torch.rand(2000, generator=random)
        log_ratio = ratio(3 * u - 1 + 0.3 * torch.randn(2000, generator=random), u)
        ratio.commit(identity)
    means = [log_ratio[(u * 5).long() == k].exp().mean().item() for k in range(5)]
    assert means == pytest.approx([1.0] * 5, abs=0.05)


def test_scale_is_one_over_the_mean_weight() -> None:
    ratio = DensityRatio(parse("2*reverse_kl"), decay=0.0)
    ratio(torch.randn(16), torch.rand(16))
    ratio.commit(identity)
    assert ratio.scale.item() == 0.5


def test_an_unseen_bin_has_mean_one() -> None:
    mean = RunningMean(3, decay=0.9)
    mean.add(torch.tensor([4.0]), torch.tensor([1]))
    mean.commit(identity)
    assert mean.mean().tolist() == [1.0, 4.0, 1.0]
