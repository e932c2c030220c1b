"""The R1 penalty against gradients worked out by hand."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
import torch._dynamo
from torch.nn import functional as F

from distill.networks.computation.activation_checkpointing import checkpoint_activations
from distill.networks.discriminator import Discriminator
from distill.objectives.gradient_penalty import squared_gradient
from distill.objectives.settings import R1Settings
from distill.training.dry_run.meter import Meter
from distill.types import Denoiser, Features
from tests.helpers.small_networks import NETWORKS, assert_near, inputs, small_network

X = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
EPS = torch.tensor([[0.5, 1.0, -1.0], [2.0, -0.5, 1.0]])
SLOPE = torch.tensor([0.7, -0.2, 1.5])


def squares(x: torch.Tensor) -> Features:
    return {"fine": x.square(), "coarse": 2 * x[:, :1]}


def weigh(slope: torch.Tensor) -> Callable[[Features], torch.Tensor]:
    """Return D = slope . x^2 + 6 x_0, whose gradient is 2 slope x + (6, 0, 0), as a function of features."""
    return lambda features: (features["fine"] * slope).sum(1) + 3 * features["coarse"].sum(1)


def test_exact_r1_is_half_the_squared_gradient_at_the_image_and_can_be_learned_from() -> None:
    slope = SLOPE.clone().requires_grad_(True)
    logits, penalty = R1Settings(weight=0.5).build()(squares, weigh(slope), X, EPS)
    gradient = 2 * SLOPE * X + torch.tensor([6.0, 0.0, 0.0])
    torch.testing.assert_close(logits, (SLOPE * X**2).sum(1) + 6 * X[:, 0])
    torch.testing.assert_close(penalty, 0.25 * gradient.square().sum(1))
    (learned,) = torch.autograd.grad(penalty.sum(), slope)
    torch.testing.assert_close(learned, 0.25 * (2 * gradient * 2 * X).sum(0))


@pytest.mark.parametrize("trained", [False, True])
def test_r1_at_the_features_is_blind_to_the_network_below(trained: bool) -> None:
    """The gradient with respect to all features is (slope, 3), with or without a graph of the features."""
    slope, x = SLOPE.clone().requires_grad_(True), X.clone().requires_grad_(trained)
    logits, penalty = R1Settings(weight=0.5, at="features").build()(squares, weigh(slope), x, EPS)
    torch.testing.assert_close(logits, (SLOPE * X**2).sum(1) + 6 * X[:, 0])
    torch.testing.assert_close(penalty, torch.full((2,), 0.25 * (SLOPE.square().sum() + 9).item()))
    (learned,) = torch.autograd.grad(penalty.sum(), slope)
    torch.testing.assert_close(learned, SLOPE)  # 2 samples of 0.25 times 2 slope


@pytest.mark.parametrize("step", [0.01, 0.5])
def test_the_approximate_r1_is_the_squared_difference_over_the_step(step: float) -> None:
    logits, penalty = R1Settings(weight=0.5, approximate=True, step=step).build()(
        squares, weigh(SLOPE), X, EPS
    )
    moved = (SLOPE * (X + step * EPS) ** 2).sum(1) + 6 * (X + step * EPS)[:, 0]
    torch.testing.assert_close(penalty, 0.25 * ((moved - logits) / step) ** 2, rtol=1e-3, atol=0)


def test_the_approximate_r1_tends_to_the_exact_one() -> None:
    """For a quadratic D the mean over directions is |gradient|^2 + step^2 ((sum slope)^2 + 2 |slope|^2)."""
    x = X[:1].double().expand(400_000, 3)
    eps = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    exact = (2 * SLOPE * X[0] + torch.tensor([6.0, 0.0, 0.0])).square().sum().item()
    bias = (SLOPE.sum() ** 2 + 2 * SLOPE.square().sum()).item()
    found = [
        R1Settings(weight=2.0, approximate=True, step=step)
        .build()(squares, weigh(SLOPE), x, eps)[1]
        .mean()
        .item()
        for step in (2.0, 1.0, 0.01)
    ]
    assert found == pytest.approx([exact + step**2 * bias for step in (2.0, 1.0, 0.01)], rel=0.01)
    assert all(abs(far - exact) > abs(near - exact) for far, near in pairwise(found))


def test_both_ends_of_the_difference_have_the_same_dropout_masks() -> None:
    torch.manual_seed(0)
    x = torch.ones(64, 3)
    _, penalty = R1Settings(weight=1.0, approximate=True).build()(
        lambda x: {"fine": F.dropout(x, 0.5)}, lambda f: f["fine"].sum(1), x, torch.zeros_like(x)
    )
    assert penalty.tolist() == [0.0] * 64


def test_both_ends_of_the_difference_may_be_one_batch() -> None:
    sizes = []

    def features(x: torch.Tensor) -> Features:
        sizes.append(len(x))
        return squares(x)

    settings = R1Settings(weight=0.5, approximate=True)
    found = settings.build()(features, weigh(SLOPE), X, EPS, one_pass=True)
    assert sizes == [4]
    torch.testing.assert_close(found, settings.build()(squares, weigh(SLOPE), X, EPS))


def network_and_heads(name: str, dropout: float) -> tuple[Denoiser, Discriminator]:
    network = small_network(name, dropout=dropout)
    torch.manual_seed(0)
    return network, Discriminator("fake", network.depth_channels, width=8)


def learned(network: Denoiser, heads: Discriminator, recompute: bool) -> list[torch.Tensor]:
    """Return logits, penalties, and the gradients of their sum by all weights that have one."""
    x_t, t, cond = inputs(network)

    def features(x: torch.Tensor) -> Features:
        return network.features(x, t, cond, heads.depths)

    torch.manual_seed(2)
    penalty = R1Settings(weight=1.0, recompute=recompute).build()
    logits, penalties = penalty(features, heads, x_t, torch.zeros_like(x_t))
    weights = [value for value in [*network.parameters(), *heads.parameters()] if value.requires_grad]
    found = torch.autograd.grad(logits.sum() + penalties.sum(), weights, allow_unused=True)
    return [logits, penalties, *(gradient for gradient in found if gradient is not None)]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("name", NETWORKS)
def test_recomputation_changes_no_gradient_of_the_exact_penalty(name: str, dropout: float) -> None:
    network, heads = network_and_heads(name, dropout)
    network.train(name != "edm2" or dropout > 0)
    expected = learned(network, heads, recompute=False)
    assert len(expected) > 30
    # EDM2 normalises its weights anew in each forward pass of training, to the same up to rounding.
    assert_near(learned(network, heads, recompute=True), expected, 1e-4 if name == "edm2" else 1e-5)


def test_a_frozen_network_is_recomputed_for_its_heads() -> None:
    network, heads = network_and_heads("unet", 0.0)
    network.eval().requires_grad_(False)
    expected = learned(network, heads, recompute=False)
    assert_near(learned(network, heads, recompute=True), expected)


def test_recomputation_keeps_autocast() -> None:
    network, heads = network_and_heads("song", 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        expected = learned(network, heads, recompute=False)
        found = learned(network, heads, recompute=True)
    assert_near(found, expected, 0.05)


def test_recomputation_holds_less() -> None:
    network, heads = network_and_heads("song", 0.0)
    network.requires_grad_(False)
    peaks = []
    for recompute in (False, True):
        before = [value.data for value in [*network.parameters(), *network.buffers(), *heads.parameters()]]
        with Meter(before) as meter:
            learned(network, heads, recompute)
        peaks.append(meter.peak)
    assert peaks[1] < 0.5 * peaks[0]


def test_compiled_blocks_run_uncompiled_in_the_exact_penalty() -> None:
    network, heads = network_and_heads("unet", 0.0)
    expected = learned(network, heads, recompute=False)
    network.bottleneck.compile(backend="eager")
    calls = torch._dynamo.utils.counters["frames"]["total"]
    for recompute in (False, True):
        assert_near(learned(network, heads, recompute), expected)
    checkpoint_activations(network)
    assert_near(learned(network, heads, recompute=False), expected)
    assert torch._dynamo.utils.counters["frames"]["total"] == calls


def test_small_gradients_count_in_float16() -> None:
    """Without a factor the gradient, 1e-8, is below what float16 can hold, and the penalty is zero."""
    layer = torch.nn.Linear(4, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 1e-4)
    x = torch.ones(2, 4, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        logits = 1e-4 * layer(x)[:, 0].float()
        found = squared_gradient(logits, [x])
    torch.testing.assert_close(found, torch.full((2,), 4e-16), rtol=0.02, atol=0)
