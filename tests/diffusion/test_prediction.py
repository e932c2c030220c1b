"""Every type of prediction against its definition, its inverse and the squared error of its target."""

from typing import get_args

import pytest
import torch

from distill.diffusion.prediction import PredictionType, target_weight, to_x0
from tests.helpers.predictions import from_x0

KINDS = get_args(PredictionType)


def case() -> tuple[torch.Tensor, ...]:
    """Draw x_0, eps, alpha and sigma that belong to no schedule."""
    random = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(5, 3, generator=random, dtype=torch.float64) for _ in range(2))
    alpha, sigma = (0.1 + torch.rand(5, 1, generator=random, dtype=torch.float64) for _ in range(2))
    return x0, eps, alpha, sigma


def test_each_type_is_its_definition() -> None:
    x0, eps, alpha, sigma = case()
    x_t = alpha * x0 + sigma * eps
    defined = {
        "epsilon": eps,
        "v_prediction": alpha * eps - sigma * x0,
        "flow_prediction": eps - x0,
        "score": -eps / sigma,
        "sample": x0,
    }
    for kind, expected in defined.items():
        torch.testing.assert_close(from_x0(kind, x0, x_t, alpha, sigma), expected)
        torch.testing.assert_close(to_x0(kind, expected, x_t, alpha, sigma), x0)
    assert set(defined) == set(KINDS)


def test_the_score_is_that_of_a_point() -> None:
    """For data that are the single point x_0, grad log p_t(x_t) is known."""
    x0, eps, alpha, sigma = case()
    x_t = (alpha * x0 + sigma * eps).requires_grad_()
    density = -((x_t - alpha * x0) / sigma).square().sum() / 2
    torch.testing.assert_close(from_x0("score", x0, x_t, alpha, sigma), torch.autograd.grad(density, x_t)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_the_weight_turns_one_squared_error_into_the_other(kind: PredictionType) -> None:
    x0, eps, alpha, sigma = case()
    x_t, wrong = alpha * x0 + sigma * eps, x0 + 0.3
    error = (from_x0(kind, wrong, x_t, alpha, sigma) - from_x0(kind, x0, x_t, alpha, sigma)).square()
    torch.testing.assert_close(
        target_weight(kind, alpha[:, 0], sigma[:, 0])[:, None] * (wrong - x0).square(), error
    )
