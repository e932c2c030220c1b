"""SiDA's ratio: the discriminator's mean loss over a batch, one number for all samples."""

import math

import pytest
import torch
from torch import Tensor

from distill.divergences import parse
from distill.objectives import PUBLISHED_PARTS, expanded_divergence, score_matching
from distill.objectives.density_ratio import BatchLossRatio
from distill.types import LossOutput, Scores


def test_the_ratio_of_the_batch_s_loss_is_one_number_for_all_samples() -> None:
    """ln 2, the loss of an undecided discriminator, over the 3072 elements of a CIFAR image: 1.000226."""
    ratio, u = BatchLossRatio(), torch.rand(4)
    assert ratio(torch.zeros(4), u, 3072).tolist() == [0.0] * 4
    ratio.observe(torch.zeros(4), u)
    ratio.commit(lambda total: total)
    found = ratio(torch.full((4,), 3.0), u, 3072).exp()
    torch.testing.assert_close(found, torch.full((4,), 1.000225655))
    ratio.observe(torch.full((4,), 3.0), u)
    ratio.commit(lambda total: total)
    log_ratio = math.log(1 + math.exp(-3)) / 3072
    assert ratio(torch.zeros(4), u, 3072)[0].exp().item() == pytest.approx(math.exp(log_ratio), rel=1e-7)


def forward_kl(scores: Scores) -> LossOutput:
    return expanded_divergence(scores, divergence=parse("forward_kl"), parts=PUBLISHED_PARTS, weighting="dmd")


def sid(scores: Scores) -> LossOutput:
    return score_matching(scores, distance="l2", alpha=1.0, weighting="dmd")


def test_forward_kl_with_the_ratio_of_the_batch_s_loss_trains_as_sida() -> None:
    torch.manual_seed(0)
    x0, teacher, fake = (torch.randn(3, 3, 4, 4, dtype=torch.float64) for _ in range(3))
    sigma = torch.full((3, 1, 1, 1), 0.7, dtype=torch.float64)

    def scores_of(x: Tensor, log_ratio: float) -> Scores:
        x_t = x + sigma
        ratios = torch.full((3,), log_ratio, dtype=torch.float64)
        return Scores(x, x_t, torch.ones_like(sigma), sigma, x_t * teacher, x_t.sin() * fake, ratios)

    x = x0.clone().requires_grad_(True)
    (ours,) = torch.autograd.grad(forward_kl(scores_of(x, math.log(2) / 3072)).loss.sum(), x)
    (sida,) = torch.autograd.grad(sid(scores_of(x, 0.0)).loss.sum(), x)
    scale = float((ours * sida).sum() / sida.square().sum())
    assert (ours - scale * sida).norm() / ours.norm() < 1e-3
    assert torch.nn.functional.cosine_similarity(ours.flatten(), sida.flatten(), dim=0) > 0.999999
