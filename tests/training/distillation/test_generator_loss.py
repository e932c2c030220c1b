"""The generator's losses of one batch: their values, and the networks that their gradients reach."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from distill.divergences import parse
from distill.objectives.density_ratio import DensityRatio
from distill.objectives.terms.gan import Settings as Gan
from distill.training.batches import Batch
from distill.training.distillation.losses import frozen, generator_loss
from distill.training.distillation.method import Method, Networks
from distill.types import Condition, Pairs
from tests.helpers.loss_inputs import (
    QUANTILES,
    add_noise,
    fake_sigma,
    generator_sigma,
    gradients_of,
    has_gradient,
    loss_inputs,
)

Make = Callable[..., tuple[Networks, Method, Batch]]
SCORE = {"name": "score_matching", "alpha": 1.2}


def matching(divergence: str) -> dict[str, Any]:
    return {"name": "distribution_matching", "divergence": divergence}


def expanded(divergence: str) -> dict[str, Any]:
    return {"name": "expanded_divergence", "divergence": divergence}


def gan(reads: str, **term: Any) -> dict[str, Any]:
    """Return settings of a GAN term of weight 0.5 with a discriminator, and of the ratio."""
    return {
        "discriminator": {"reads": reads, "depths": ["bottleneck"]},
        "ratio": {},
        "terms": [{"name": "gan", "weight": 0.5, **term}],
    }


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return partial(loss_inputs, tmp_path)


def generator_step(networks: Networks, method: Method, batch: Batch, step: int = 0) -> dict[str, Tensor]:
    """Run forward and backward pass of the generator's losses, and return the losses."""
    trained = [network for network in (networks.fake, networks.discriminator) if network is not None]
    with frozen(*trained):
        losses, _ = generator_loss(
            networks, method, batch, networks.generator(batch.z, batch.cond), method.at(step)
        )
        sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (matching("reverse_kl"), {}),
        (SCORE, {}),
        (expanded("reverse_kl"), {}),
        (expanded("forward_kl"), gan("teacher")),
        (matching("jensen_shannon"), gan("fake")),
    ],
)
def test_a_generator_step_leaves_every_other_network_without_gradient(
    make: Make, objective: dict[str, Any], settings: dict[str, Any]
) -> None:
    networks, method, batch = make(objective, **settings)
    generator_step(networks, method, batch)
    assert has_gradient(networks.generator)
    for network in (networks.teacher, networks.fake, networks.discriminator):
        assert network is None or all(gradient is None for gradient in gradients_of(network))
    assert all(parameter.requires_grad for parameter in networks.fake.parameters())


def test_distribution_matching_moves_samples_by_dmd_s_gradient(make: Make) -> None:
    """The gradient of a sample is (fake - teacher)/mean|x - teacher|, per dimension.

    These are eqs. 7 and 8 of Yin et al. 2024.
    """
    networks, method, batch = make(matching("reverse_kl"))
    x0 = torch.randn(4, 1, 8, 8, requires_grad=True)
    losses, _ = generator_loss(networks, method, batch, x0, method.at(0))
    (found,) = torch.autograd.grad(losses["objective"], x0)
    sigma = generator_sigma(batch.u)
    x_t = add_noise(x0, sigma, batch.eps)
    teacher, fake = (network(x_t, sigma, batch.cond) for network in (networks.teacher, networks.fake))
    expected = (fake - teacher) / (x0 - teacher).abs().mean((1, 2, 3), keepdim=True) / 4 / 64
    torch.testing.assert_close(found, expected)


def with_term(method: Method, **changes: int) -> Method:
    """Return the method with other settings of its first term."""
    first = method.terms[0]
    changed = dataclasses.replace(first, settings=first.settings.model_copy(update=changes))
    return dataclasses.replace(method, terms=(changed,))


def test_a_term_counts_from_its_first_step_on(make: Make) -> None:
    networks, method, batch = make(matching("forward_kl"), **gan("teacher"))
    late = with_term(method, start_step=3)
    assert set(generator_step(networks, late, batch, step=2)) == {"objective"}
    assert set(generator_step(networks, late, batch, step=3)) == {"objective", "gan"}


def test_a_term_s_weight_warms_up(make: Make) -> None:
    networks, method, batch = make(matching("reverse_kl"), **gan("teacher", start_step=2, warmup_steps=3))
    full = generator_step(networks, with_term(method, warmup_steps=0), batch, step=2)["gan"]
    for step, share in ((2, 0.25), (4, 0.75), (5, 1.0), (9, 1.0)):
        torch.testing.assert_close(generator_step(networks, method, batch, step=step)["gan"], share * full)


def test_a_term_cools_down_and_stops(make: Make) -> None:
    networks, method, batch = make(matching("reverse_kl"), **gan("teacher"))
    full = generator_step(networks, method, batch, step=0)["gan"]
    ends = with_term(method, stop_step=8, cooldown_steps=3)
    for step, share in ((0, 1.0), (4, 1.0), (5, 0.75), (7, 0.25)):
        torch.testing.assert_close(generator_step(networks, ends, batch, step=step)["gan"], share * full)
    assert set(generator_step(networks, ends, batch, step=8)) == {"objective"}


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"start_step": 5, "stop_step": 5}, "stop_step: is 5; expected more than start_step, 5"),
        ({"cooldown_steps": 5}, "cooldown_steps: goes with stop_step; expected a step"),
    ],
)
def test_a_term_that_stops_before_it_starts_is_refused(settings: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        Gan(weight=1.0, **settings)


def test_the_gan_term_is_the_non_saturating_loss_of_the_noised_sample(make: Make) -> None:
    networks, method, batch = make(matching("reverse_kl"), **gan("teacher"))
    x0 = torch.randn(4, 1, 8, 8)
    losses, _ = generator_loss(networks, method, batch, x0, method.at(0))
    sigma = generator_sigma(batch.u)
    logits = networks.logits(networks.discriminator, add_noise(x0, sigma, batch.eps), sigma, batch.cond)
    torch.testing.assert_close(losses["gan"], 0.5 * -torch.nn.functional.logsigmoid(logits).mean())


def test_the_gan_s_own_noise_has_the_levels_of_the_fake_score(make: Make) -> None:
    networks, method, batch = make(
        discriminator={"reads": "fake"}, terms=[{"name": "gan", "weight": 0.5, "own_noise": True}]
    )
    x0 = torch.randn(4, 1, 8, 8, requires_grad=True)
    losses, _ = generator_loss(networks, method, batch, x0, method.at(0))
    sigma = fake_sigma(torch.full((4,), QUANTILES["gan_noise"]))
    x_t = add_noise(x0, sigma, batch.gan_noise.eps)
    logits = networks.discriminator(networks.fake.features(x_t, sigma, batch.cond, ("bottleneck",)))
    torch.testing.assert_close(losses["gan"], 0.5 * -torch.nn.functional.logsigmoid(logits).mean())
    (gradient,) = torch.autograd.grad(losses["gan"], x0)
    assert gradient.abs().flatten(1).sum(1).min() > 0


def test_regression_compares_the_student_with_the_pairs(make: Make) -> None:
    networks, method, batch = make(
        terms=[{"name": "regression", "weight": 0.5}], teacher_samples={"path": "unused", "count": 8}
    )
    pairs = Pairs(torch.randn(4, 1, 8, 8), Condition(torch.tensor([9, 8, 7, 6])), torch.randn(4, 1, 8, 8))
    losses = generator_step(networks, method, dataclasses.replace(batch, pairs=pairs))
    with torch.no_grad():
        expected = 0.5 * torch.nn.functional.mse_loss(networks.generator(pairs.z, pairs.cond), pairs.x)
    torch.testing.assert_close(losses["regression"].detach(), expected)


def objective_gradient(networks: Networks, method: Method, batch: Batch, x0: Tensor) -> Tensor:
    """Return the gradient of the objective with respect to the samples."""
    losses, _ = generator_loss(networks, method, batch, x0, method.at(0))
    return torch.autograd.grad(losses["objective"], x0)[0]


def test_the_ratio_weighs_each_sample_by_its_own_logit(make: Make) -> None:
    """Forward KL is reverse KL with each sample weighted by the discriminator's clamped ratio."""
    networks, method, batch = make(matching("forward_kl"), **gan("teacher"))
    ratio = DensityRatio(method.ratio.divergence, normalise=False)
    method = dataclasses.replace(method, ratio=ratio, terms=())
    x0 = torch.randn(4, 1, 8, 8, requires_grad=True)
    found = objective_gradient(networks, method, batch, x0)
    plain, plain_method, _ = make(matching("reverse_kl"))
    plain = dataclasses.replace(plain, teacher=networks.teacher, fake=networks.fake)
    unweighted = objective_gradient(plain, plain_method, batch, x0)
    sigma = generator_sigma(batch.u)
    logits = networks.logits(networks.discriminator, add_noise(x0, sigma, batch.eps), sigma, batch.cond)
    torch.testing.assert_close(found, unweighted * logits.exp().clamp(0.1, 20).reshape(4, 1, 1, 1))


def test_before_its_start_the_ratio_observes_but_weighs_all_samples_alike(make: Make) -> None:
    networks, method, batch = make(discriminator={"reads": "teacher"}, ratio={"start_step": 5, "bins": 1})
    ratio = DensityRatio(parse("jensen_shannon"), bins=1)
    method = dataclasses.replace(method, ratio=ratio)
    x0 = torch.randn(4, 1, 8, 8, requires_grad=True)
    _, before = generator_loss(networks, method, batch, x0, method.at(4))
    assert before["ratio/log_ratio_mean"] == 0
    assert before["ratio/scale"] == pytest.approx(2.0)  # h(1) = 1/2 for Jensen-Shannon
    ratio.commit(lambda total: total)
    assert ratio.r_mean.total[1].sum() == 4
    _, after = generator_loss(networks, method, batch, x0, method.at(5))
    assert after["ratio/log_ratio_std^2"] > after["ratio/log_ratio_mean"] ** 2
    assert after["ratio/scale"] == ratio.scale != 2


def test_without_normalisation_an_undecided_weight_stays_at_the_start(make: Make) -> None:
    """At r = 1 it is h(1) = 2 for Pearson's divergence, and 1 for the reverse KL divergence."""
    networks, method, batch = make(
        matching("pearson_chi2"),
        discriminator={"reads": "teacher"},
        ratio={"start_step": 5, "normalise": False},
    )
    for parameter in networks.discriminator.parameters():
        parameter.data.zero_()
    plain, plain_method, _ = make(matching("reverse_kl"))
    plain = dataclasses.replace(plain, teacher=networks.teacher, fake=networks.fake)
    x0 = torch.randn(4, 1, 8, 8, requires_grad=True)
    unweighted = objective_gradient(plain, plain_method, batch, x0)
    for step in (4, 5):
        losses, metrics = generator_loss(networks, method, batch, x0, method.at(step))
        (gradient,) = torch.autograd.grad(losses["objective"], x0)
        torch.testing.assert_close(gradient, 2 * unweighted)
        assert metrics["ratio/scale"] == 1


def test_frozen_puts_everything_back() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)).train()
    network[0].bias.requires_grad_(False)
    with frozen(network):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.training
    assert network[1].training
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, False]
