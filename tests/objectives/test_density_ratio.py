"""Clamping and running normalisation of the density ratio."""

import pytest
import torch

from distill.divergences import parse
from distill.objectives.density_ratio import DensityRatio, RunningMean


def identity(total: torch.Tensor) -> torch.Tensor:
    return total


def weigh(ratio: DensityRatio, logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Return the log-ratio of a micro-batch and record it, as a generator update does."""
    log_ratio = ratio(logits, u)
    ratio.observe(logits, u)
    return log_ratio


def test_a_ratio_without_normalisation_is_the_clamped_logit() -> None:
    ratio = DensityRatio(parse("forward_kl"), low=0.1, high=20.0, normalise=False)
    logits = torch.tensor([-9.0, 0.5, 9.0])
    expected = torch.tensor([0.1, 1.6487213, 20.0]).log()
    torch.testing.assert_close(ratio(logits, torch.full((3,), 0.5)), expected)


@pytest.mark.parametrize("split", [[1] * 8, [8], [3, 5], [2, 2, 4]])
def test_the_normalisation_does_not_depend_on_how_a_batch_is_split(split: list[int]) -> None:
    torch.manual_seed(0)
    whole, parts = (DensityRatio(parse("forward_kl"), bins=4, decay=0.9) for _ in range(2))
    for _ in range(5):
        logits, u = torch.randn(8), torch.rand(8)
        expected = weigh(whole, logits, u)
        micro_batches = zip(logits.split(split), u.split(split), strict=True)
        found = torch.cat([weigh(parts, *micro_batch) for micro_batch in micro_batches])
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
    # Before the first commit the running mean is one.
    for r, expected in ((2.0, 2.0), (6.0, 3.0), (6.0, 1.0)):
        assert weigh(ratio, torch.tensor([r]).log(), u).exp().item() == pytest.approx(expected)
        ratio.commit(identity)


def test_a_ratio_that_is_only_asked_for_is_not_recorded() -> None:
    ratio = DensityRatio(parse("forward_kl"), bins=1)
    before = {name: value.clone() for name, value in ratio.named_buffers()}
    logits, u = torch.tensor([3.0]), torch.tensor([0.3])
    first = ratio(logits, u)
    ratio.commit(identity)
    assert torch.equal(ratio(logits, u), first)
    assert all(torch.equal(value, before[name]) for name, value in ratio.named_buffers())


def test_the_state_of_a_ratio_is_its_running_means() -> None:
    assert list(DensityRatio(parse("forward_kl"), bins=3).state_dict()) == ["r_mean.total", "h_mean.total"]


def test_the_mean_ratio_of_every_bin_tends_to_one() -> None:
    random = torch.Generator().manual_seed(0)
    ratio = DensityRatio(parse("reverse_kl"), bins=5, decay=0.9)
    for _ in range(60):
        u = torch.rand(2000, generator=random)
        log_ratio = weigh(ratio, 3 * u - 1 + 0.3 * torch.randn(2000, generator=random), u)
        ratio.commit(identity)
    means = [log_ratio[(u * 5).long() == k].exp().mean().item() for k in range(5)]
    assert means == pytest.approx([1.0] * 5, abs=0.05)


def test_scale_is_one_over_the_mean_weight() -> None:
    ratio = DensityRatio(parse("2*reverse_kl"), decay=0.0)
    ratio.observe(torch.randn(16), torch.rand(16))
    ratio.commit(identity)
    assert ratio.scale.item() == 0.5


def test_an_unseen_bin_has_mean_one() -> None:
    mean = RunningMean(3, decay=0.9)
    mean.add(torch.tensor([4.0]), torch.tensor([1]))
    mean.commit(identity)
    assert mean.mean().tolist() == [1.0, 4.0, 1.0]
