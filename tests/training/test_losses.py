"""One batch's losses: which gradients flow where, and what the parts add up to."""

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from distill.networks.discriminator import Discriminator
from distill.networks.sizes import UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.objectives.density_ratio import DensityRatio
from distill.training.batches import Batch
from distill.training.config import read_config
from distill.training.distillation.build import build_generator, build_method
from distill.training.distillation.losses import fake_loss, frozen, generator_loss
from distill.training.distillation.method import Method, Networks
from distill.training.settings import DistillRun
from distill.types import Condition, Pairs

BASE = """
task: distill
run_dir: unused
steps: 10
data: {name: digits}
teacher: {name: native, path: unused}
generator: {init_noise_to_signal: 2.5}
"""
GAN = "discriminator: {reads: %s, depths: [bottleneck]}\nratio: {}\nterms: [{name: gan, weight: 0.5}]\n"
MATCHING = "objective: {name: distribution_matching, divergence: %s}\n"
EXPANDED = "objective: {name: expanded_divergence, divergence: %s}\n"
SCORE = "objective: {name: score_matching, alpha: 1.2}\n"


@pytest.fixture
def make(tmp_path):
    def build(text: str) -> tuple[Networks, object, Batch]:
        (tmp_path / "run.yaml").write_text(BASE + text)
        config = read_config(tmp_path / "run.yaml")
        assert isinstance(config, DistillRun)
        torch.manual_seed(0)
        teacher = UNet(UNetConfig(8, 1, 10, sizes=UNetSizes(width=16, blocks=1)))
        for parameter in teacher.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        teacher.eval().requires_grad_(False)
        fake = copy.deepcopy(teacher).requires_grad_(True)
        for parameter in fake.parameters():
            parameter.data.add_(0.01 * torch.randn_like(parameter))
        discriminator = config.discriminator.build(teacher, fake) if config.discriminator else None
        networks = Networks(teacher, fake, build_generator(config.generator, teacher), discriminator)
        shape = (4, 1, 8, 8)
        noise = {name: torch.randn(shape) for name in ("z", "eps", "eps_fake", "eps_real", "real")}
        batch = Batch(
            cond=Condition(torch.tensor([1, 2, 3, 4])), u=torch.rand(4), u_fake=torch.rand(4), **noise
        )
        return networks, build_method(config, torch.device("cpu")), batch

    return build


def gradients(module: torch.nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in module.parameters()]


def generator_step(networks: Networks, method, batch: Batch, step: int = 0) -> dict[str, Tensor]:
    trained = [network for network in (networks.fake, networks.discriminator) if network is not None]
    with frozen(*trained):
        losses, _ = generator_loss(networks, method, batch, networks.generator(batch.z, batch.cond), step)
        sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize(
    "text",
    [
        MATCHING % "reverse_kl",
        SCORE,
        EXPANDED % "reverse_kl",
        EXPANDED % "forward_kl" + GAN % "teacher",
        MATCHING % "jensen_shannon" + GAN % "fake",
    ],
)
def test_a_generator_step_leaves_every_other_network_without_gradient(make, text: str) -> None:
    networks, method, batch = make(text)
    generator_step(networks, method, batch)
    assert any(
        gradient is not None and gradient.abs().sum() > 0 for gradient in gradients(networks.generator)
    )
    for network in (networks.teacher, networks.fake, networks.discriminator):
        assert network is None or all(gradient is None for gradient in gradients(network))
    assert all(parameter.requires_grad for parameter in networks.fake.parameters())


@pytest.mark.parametrize("reads", ["teacher", "fake"])
def test_a_fake_step_leaves_generator_and_teacher_without_gradient(make, reads: str) -> None:
    networks, method, batch = make(MATCHING % "forward_kl" + GAN % reads)
    losses, _ = fake_loss(networks, method, batch, networks.generator(batch.z, batch.cond))
    losses["discriminator"].backward(retain_graph=True)
    reaches_fake = any(
        gradient is not None and gradient.abs().sum() > 0 for gradient in gradients(networks.fake)
    )
    assert reaches_fake == (reads == "fake")
    losses["fake"].backward()
    assert all(gradient is None for gradient in gradients(networks.generator) + gradients(networks.teacher))
    assert all(gradient is not None for gradient in gradients(networks.discriminator))


def test_the_fake_score_s_loss_is_edm_s(make) -> None:
    """lambda(sigma) |D(x_0 + sigma eps) - x_0|^2 per dimension (Karras et al. 2022, eq. 8), for sigma at the quantiles drawn."""
    networks, method, batch = make(SCORE)
    x0 = torch.randn(4, 1, 8, 8)
    losses, _ = fake_loss(networks, method, batch, x0)
    sigma = (-1.2 + 1.2 * torch.distributions.Normal(0, 1).icdf(batch.u_fake)).exp()
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    error = networks.fake(x0 + sigma.reshape(4, 1, 1, 1) * batch.eps_fake, sigma, batch.cond) - x0
    torch.testing.assert_close(losses["fake"], (weight * error.square().flatten(1).mean(1)).mean())


def test_the_discriminator_s_loss_is_binary_cross_entropy(make) -> None:
    networks, method, batch = make(MATCHING % "forward_kl" + GAN % "teacher")
    x0 = torch.randn(4, 1, 8, 8)
    losses, metrics = fake_loss(networks, method, batch, x0)
    sigma = (-1.2 + 1.2 * torch.distributions.Normal(0, 1).icdf(batch.u_fake)).exp()
    noise = sigma.reshape(4, 1, 1, 1)
    logits = torch.cat(
        [
            networks.logits(networks.discriminator, batch.real + noise * batch.eps_real, sigma, batch.cond),
            networks.logits(networks.discriminator, x0 + noise * batch.eps_fake, sigma, batch.cond),
        ]
    )
    labels = torch.tensor([1.0] * 4 + [0.0] * 4)
    # The mean over eight equals half of the sum of the two means.
    expected = 2 * torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(losses["discriminator"], expected)
    torch.testing.assert_close(
        metrics["discriminator/accuracy"], ((logits > 0) == (labels > 0)).float().mean()
    )


@pytest.mark.parametrize("reads", ["teacher", "fake"])
@pytest.mark.parametrize("at", ["image", "features"])
def test_r1_is_half_the_squared_gradient_of_the_logits_of_noised_real_images(
    make, reads: str, at: str
) -> None:
    networks, method, batch = make(
        MATCHING % "reverse_kl"
        + f"discriminator: {{reads: {reads}, weight: 3, r1: {{weight: 0.2, at: {at}}}}}\n"
    )
    losses, _ = fake_loss(networks, method, batch, torch.randn(4, 1, 8, 8))
    sigma = (-1.2 + 1.2 * torch.distributions.Normal(0, 1).icdf(batch.u_fake)).exp()
    real_t = (batch.real + sigma.reshape(4, 1, 1, 1) * batch.eps_real).requires_grad_(True)
    features = getattr(networks, reads).features(real_t, sigma, batch.cond, ("bottleneck",))
    of = real_t if at == "image" else features["bottleneck"]
    (gradient,) = torch.autograd.grad(networks.discriminator(features).sum(), of)
    torch.testing.assert_close(
        losses["r1"], 3 * 0.1 * gradient.square().flatten(1).sum(1).mean(), rtol=1e-4, atol=0
    )
    losses["r1"].backward()
    assert any(
        gradient is not None and gradient.abs().sum() > 0 for gradient in gradients(networks.discriminator)
    )
    assert all(gradient is None for gradient in gradients(networks.teacher))


def test_the_approximate_r1_moves_the_noised_real_image_at_its_own_level(make) -> None:
    networks, method, batch = make(
        MATCHING % "reverse_kl" + "discriminator: {r1: {weight: 0.2, approximate: true, step: 0.5}}\n"
    )
    losses, _ = fake_loss(networks, method, batch, torch.randn(4, 1, 8, 8))
    sigma = (-1.2 + 1.2 * torch.distributions.Normal(0, 1).icdf(batch.u_fake)).exp()
    real_t = batch.real + sigma.reshape(4, 1, 1, 1) * batch.eps_real
    near, far = (
        networks.logits(networks.discriminator, x, sigma, batch.cond)
        for x in (real_t, real_t + 0.5 * batch.eps)
    )
    torch.testing.assert_close(losses["r1"], 0.1 * ((far - near) / 0.5).square().mean(), rtol=1e-3, atol=0)


def test_the_discriminator_s_verdicts_are_counted(make) -> None:
    networks, method, batch = make(MATCHING % "forward_kl" + GAN % "teacher")
    x0 = torch.randn(4, 1, 8, 8)
    fake_loss(networks, method, batch, x0)
    sigma = (-1.2 + 1.2 * torch.distributions.Normal(0, 1).icdf(batch.u_fake)).exp()
    for counts, x, eps in (
        (method.calibration.real, batch.real, batch.eps_real),
        (method.calibration.student, x0, batch.eps_fake),
    ):
        logits = networks.logits(
            networks.discriminator, x + sigma.reshape(4, 1, 1, 1) * eps, sigma, batch.cond
        )
        assert counts.pending.sum(1).tolist() == pytest.approx([logits.exp().sum().item(), 4])


def test_distribution_matching_moves_samples_by_dmd_s_gradient(make) -> None:
    """Yin et al. 2024, eqs. 7 and 8: the gradient with respect to a sample is (fake - teacher)/mean|x - teacher|, per dimension."""
    networks, method, batch = make(MATCHING % "reverse_kl")
    x0 = torch.randn(4, 1, 8, 8, requires_grad=True)
    losses, _ = generator_loss(networks, method, batch, x0, 0)
    (found,) = torch.autograd.grad(losses["objective"], x0)
    sigma = ((80 ** (1 / 7) + batch.u * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7).reshape(4, 1, 1, 1)
    teacher, fake = (
        network(x0 + sigma * batch.eps, sigma.flatten(), batch.cond)
        for network in (networks.teacher, networks.fake)
    )
    expected = (fake - teacher) / (x0 - teacher).abs().mean((1, 2, 3), keepdim=True) / 4 / 64
    torch.testing.assert_close(found, expected)


def with_term(method: Method, **changed: int) -> Method:
    """The method with other settings of its first term."""
    first = method.terms[0]
    return dataclasses.replace(
        method,
        terms=(dataclasses.replace(first, settings=first.settings.model_copy(update=changed)),),
    )


def test_a_term_counts_from_its_first_step_on(make) -> None:
    networks, method, batch = make(MATCHING % "forward_kl" + GAN % "teacher")
    late = with_term(method, start_step=3)
    assert set(generator_step(networks, late, batch, step=2)) == {"objective"}
    losses = generator_step(networks, late, batch, step=3)
    assert set(losses) == {"objective", "gan"}


def test_a_term_s_weight_warms_up(make) -> None:
    networks, method, batch = make(
        MATCHING % "reverse_kl" + GAN.replace("0.5", "0.5, start_step: 2, warmup_steps: 3") % "teacher"
    )
    full = generator_step(
        networks,
        with_term(method, warmup_steps=0),
        batch,
        step=2,
    )["gan"]
    for step, share in ((2, 0.25), (4, 0.75), (5, 1.0), (9, 1.0)):
        torch.testing.assert_close(generator_step(networks, method, batch, step=step)["gan"], share * full)


def test_the_gan_term_is_the_non_saturating_loss_of_the_noised_sample(make) -> None:
    networks, method, batch = make(MATCHING % "reverse_kl" + GAN % "teacher")
    x0 = torch.randn(4, 1, 8, 8)
    losses, _ = generator_loss(networks, method, batch, x0, 0)
    sigma = (80 ** (1 / 7) + batch.u * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    logits = networks.logits(
        networks.discriminator, x0 + sigma.reshape(4, 1, 1, 1) * batch.eps, sigma, batch.cond
    )
    torch.testing.assert_close(losses["gan"], 0.5 * -torch.nn.functional.logsigmoid(logits).mean())


def test_regression_compares_the_student_with_the_pairs(make) -> None:
    networks, method, batch = make(
        MATCHING % "reverse_kl"
        + "terms: [{name: regression, weight: 0.5}]\nteacher_samples: {path: unused, count: 8}\n"
    )
    pairs = Pairs(torch.randn(4, 1, 8, 8), Condition(torch.tensor([9, 8, 7, 6])), torch.randn(4, 1, 8, 8))
    losses = generator_step(networks, method, dataclasses.replace(batch, pairs=pairs))
    with torch.no_grad():
        expected = 0.5 * torch.nn.functional.mse_loss(networks.generator(pairs.z, pairs.cond), pairs.x)
    torch.testing.assert_close(losses["regression"].detach(), expected)


def test_the_ratio_weighs_each_sample_by_its_own_logit(make) -> None:
    """Forward KL weighs by r: the objective is that of reverse KL, sample by sample, times the discriminator's clamped ratio."""
    networks, method, batch = make(MATCHING % "forward_kl" + GAN % "teacher")
    ratio = DensityRatio(method.ratio.divergence, normalise=False)
    x0 = torch.randn(4, 1, 8, 8, requires_grad=True)
    found = torch.autograd.grad(
        generator_loss(networks, dataclasses.replace(method, ratio=ratio, terms=()), batch, x0, 0)[0][
            "objective"
        ],
        x0,
    )[0]
    plain, plain_method, _ = make(MATCHING % "reverse_kl")
    plain = dataclasses.replace(plain, teacher=networks.teacher, fake=networks.fake)
    unweighted = torch.autograd.grad(generator_loss(plain, plain_method, batch, x0, 0)[0]["objective"], x0)[0]
    sigma = (80 ** (1 / 7) + batch.u * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    logits = networks.logits(
        networks.discriminator, x0 + sigma.reshape(4, 1, 1, 1) * batch.eps, sigma, batch.cond
    )
    torch.testing.assert_close(found, unweighted * logits.exp().clamp(0.1, 20).reshape(4, 1, 1, 1))


def test_a_discriminator_averages_its_heads_sample_by_sample() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator("teacher", {"8": 4, "4": 8}, width=8)
    features = {"8": torch.randn(3, 4, 8, 8), "4": torch.randn(3, 8, 4, 4)}
    logits = discriminator(features)
    one = discriminator({name: value[1:2] for name, value in features.items()})
    assert logits.shape == (3,)
    torch.testing.assert_close(logits[1:2], one)
    single = [discriminator.heads[name](value).mean((1, 2, 3)) for name, value in features.items()]
    torch.testing.assert_close(logits, torch.stack(single).mean(0))


def test_frozen_puts_everything_back() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5)).train()
    network[0].bias.requires_grad_(False)
    with frozen(network):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.training
    assert network[1].training
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, False]
