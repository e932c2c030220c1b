"""The losses of fake score and discriminator on one batch: their values, and where their gradients flow."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from distill.config.errors import UserError
from distill.training.batches import Batch
from distill.training.distillation.losses import fake_loss
from distill.training.distillation.method import Method, Networks
from tests.helpers.loss_inputs import (
    QUANTILES,
    add_noise,
    fake_sigma,
    gradients_of,
    has_gradient,
    loss_inputs,
)

Make = Callable[..., tuple[Networks, Method, Batch]]
FORWARD_KL = {"name": "distribution_matching", "divergence": "forward_kl"}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return partial(loss_inputs, tmp_path)


def with_ratio(reads: str) -> dict[str, Any]:
    """Return settings of a discriminator and of the ratio that it estimates."""
    return {"discriminator": {"reads": reads, "depths": ["bottleneck"]}, "ratio": {}}


@pytest.mark.parametrize("reads", ["teacher", "fake"])
def test_a_fake_step_leaves_generator_and_teacher_without_gradient(make: Make, reads: str) -> None:
    networks, method, batch = make(FORWARD_KL, **with_ratio(reads))
    losses, _ = fake_loss(networks, method, batch, networks.generator(batch.z, batch.cond))
    losses["discriminator"].backward(retain_graph=True)
    assert has_gradient(networks.fake) == (reads == "fake")
    losses["fake"].backward()
    assert all(gradient is None for gradient in gradients_of(networks.generator, networks.teacher))
    assert all(gradient is not None for gradient in gradients_of(networks.discriminator))


def test_the_fake_score_s_loss_is_edm_s(make: Make) -> None:
    """It is lambda(sigma) |D(x_0 + sigma eps) - x_0|^2 per dimension (Karras et al. 2022, eq. 8)."""
    networks, method, batch = make({"name": "score_matching", "alpha": 1.2})
    x0 = torch.randn(4, 1, 8, 8)
    losses, _ = fake_loss(networks, method, batch, x0)
    sigma = fake_sigma(batch.u_fake)
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    error = networks.fake(add_noise(x0, sigma, batch.eps_fake), sigma, batch.cond) - x0
    torch.testing.assert_close(losses["fake"], (weight * error.square().flatten(1).mean(1)).mean())


def test_with_real_data_the_fake_score_learns_samples_and_images(make: Make) -> None:
    """Both parts by hand, for alpha 0.9 and beta 0.7, and targets x_0 - x_t/(1 + sigma) of the velocity."""
    real_data = {"alpha": 0.9, "beta": 0.7}
    networks, method, batch = make({"name": "score_matching", "real_data": real_data})
    x0 = torch.randn(4, 1, 8, 8)
    losses, _ = fake_loss(networks, method, batch, x0)
    sigma = fake_sigma(batch.u_fake)
    weight = ((sigma**2 + 0.25) / (sigma * 0.5) ** 2).reshape(-1, 1, 1, 1)
    views = {"fake": (x0, batch.eps_fake, 0.9, 0.2), "fake_on_data": (batch.real, batch.eps_real, 0.1, -0.2)}
    for name, (x, eps, share, excess) in views.items():
        x_t = add_noise(x, sigma, eps)
        prediction = networks.fake(x_t, sigma, batch.cond)
        origin = x_t / (1 + sigma.reshape(-1, 1, 1, 1))
        expected = share * (prediction - x).square() + 2 * excess * (prediction - origin) * (x - origin)
        torch.testing.assert_close(losses[name], (weight * expected).mean())


def test_the_discriminator_s_loss_is_binary_cross_entropy(make: Make) -> None:
    networks, method, batch = make(FORWARD_KL, **with_ratio("teacher"))
    x0 = torch.randn(4, 1, 8, 8)
    losses, metrics = fake_loss(networks, method, batch, x0)
    sigma = fake_sigma(batch.u_fake)
    views = (add_noise(batch.real, sigma, batch.eps_real), add_noise(x0, sigma, batch.eps_fake))
    logits = torch.cat([networks.logits(networks.discriminator, x, sigma, batch.cond) for x in views])
    labels = torch.tensor([1.0] * 4 + [0.0] * 4)
    # The mean over eight equals half of the sum of the two means.
    expected = 2 * binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(losses["discriminator"], expected)
    accuracy = ((logits > 0) == (labels > 0)).float().mean()
    torch.testing.assert_close(metrics["discriminator/accuracy"], accuracy)


def test_the_discriminator_s_own_noise_differs_for_samples_and_real_images(make: Make) -> None:
    networks, method, batch = make(discriminator={"reads": "fake", "weight": 3, "own_noise": True})
    x0 = torch.randn(4, 1, 8, 8)
    losses, _ = fake_loss(networks, method, batch, x0)
    views = (
        ("discriminator_noise", batch.discriminator_noise, x0, 0.0),
        ("real_noise", batch.real_noise, batch.real, 1.0),
    )
    expected = torch.zeros(())
    for name, noise, images, label in views:
        sigma = fake_sigma(torch.full((4,), QUANTILES[name]))
        x_t = add_noise(images, sigma, noise.eps)
        logits = networks.discriminator(networks.fake.features(x_t, sigma, batch.cond, ("bottleneck",)))
        expected = expected + 3 * binary_cross_entropy_with_logits(logits, torch.full((4,), label))
    torch.testing.assert_close(losses["discriminator"], expected)


@pytest.mark.parametrize("reads", ["teacher", "fake"])
@pytest.mark.parametrize("at", ["image", "features"])
def test_r1_is_half_the_squared_gradient_of_the_logits_of_noised_real_images(
    make: Make, reads: str, at: str
) -> None:
    networks, method, batch = make(
        discriminator={"reads": reads, "weight": 3, "r1": {"weight": 0.2, "at": at}}
    )
    losses, _ = fake_loss(networks, method, batch, torch.randn(4, 1, 8, 8))
    sigma = fake_sigma(batch.u_fake)
    real_t = add_noise(batch.real, sigma, batch.eps_real).requires_grad_(True)
    network = networks.teacher if reads == "teacher" else networks.fake
    features = network.features(real_t, sigma, batch.cond, ("bottleneck",))
    inputs = real_t if at == "image" else features["bottleneck"]
    (gradient,) = torch.autograd.grad(networks.discriminator(features).sum(), inputs)
    expected = 3 * 0.1 * gradient.square().flatten(1).sum(1).mean()
    torch.testing.assert_close(losses["r1"], expected, rtol=1e-4, atol=0)
    losses["r1"].backward()
    assert has_gradient(networks.discriminator)
    assert all(gradient is None for gradient in gradients_of(networks.teacher))


def test_the_approximate_r1_moves_the_noised_real_image_at_its_own_level(make: Make) -> None:
    networks, method, batch = make(discriminator={"r1": {"weight": 0.2, "approximate": True, "step": 0.5}})
    losses, _ = fake_loss(networks, method, batch, torch.randn(4, 1, 8, 8))
    sigma = fake_sigma(batch.u_fake)
    real_t = add_noise(batch.real, sigma, batch.eps_real)
    near, far = (
        networks.logits(networks.discriminator, x, sigma, batch.cond)
        for x in (real_t, real_t + 0.5 * batch.eps)
    )
    torch.testing.assert_close(losses["r1"], 0.1 * ((far - near) / 0.5).square().mean(), rtol=1e-3, atol=0)


def test_the_discriminator_s_outputs_are_counted(make: Make) -> None:
    networks, method, batch = make(FORWARD_KL, **with_ratio("teacher"))
    x0 = torch.randn(4, 1, 8, 8)
    fake_loss(networks, method, batch, x0)
    sigma = fake_sigma(batch.u_fake)
    real_t, x_t = add_noise(batch.real, sigma, batch.eps_real), add_noise(x0, sigma, batch.eps_fake)
    for counts, x in ((method.calibration.real, real_t), (method.calibration.student, x_t)):
        logits = networks.logits(networks.discriminator, x, sigma, batch.cond)
        assert counts.pending.sum(1).tolist() == pytest.approx([logits.exp().sum().item(), 4])


def test_with_the_channel_mean_only_the_fake_score_learns_to_tell_images_apart(make: Make) -> None:
    channel_mean = {"reads": "fake", "depths": ["4"], "heads": "channel_mean"}
    networks, method, batch = make(discriminator=channel_mean, ratio={})
    assert list(networks.discriminator.parameters()) == []
    x0 = torch.randn(4, 1, 8, 8)
    losses, _ = fake_loss(networks, method, batch, x0)
    sigma = fake_sigma(batch.u_fake)
    expected = torch.zeros(())
    for images, eps, label in ((x0, batch.eps_fake, 0.0), (batch.real, batch.eps_real, 1.0)):
        x_t = add_noise(images, sigma, eps)
        logits = networks.fake.features(x_t, sigma, batch.cond, ("4",))["4"].mean(1)
        expected = expected + binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))
    torch.testing.assert_close(losses["discriminator"], expected)
    losses["discriminator"].backward()
    assert has_gradient(networks.fake)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"reads": "teacher", "heads": "channel_mean"},
            "channel_mean has no weights, and the teacher does not learn; expected reads: fake",
        ),
        (
            {"reads": "fake", "heads": "channel_mean", "r1": {"weight": 1}},
            "penalises trained heads; expected r1: null with heads: channel_mean",
        ),
    ],
)
def test_heads_that_cannot_learn_are_refused(make: Make, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(discriminator=settings)
