"""Settings that the papers' recipes need: where the discriminator looks, what weighs its loss, how a gradient is clipped."""

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch.nn.functional import binary_cross_entropy_with_logits

from distill.config.errors import UserError
from distill.divergences import parse
from distill.networks.discriminator import ChannelMean
from distill.networks.sizes import UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.objectives import PUBLISHED_PARTS, expanded_divergence, score_matching
from distill.objectives.density_ratio import BatchLossRatio, DensityRatio
from distill.objectives.term import TermInputs
from distill.objectives.terms.gan import Gan
from distill.training.batches import Batch, Batches, Noise
from distill.training.config import read_config
from distill.training.distillation.build import build_generator, build_method
from distill.training.distillation.losses import fake_loss, generator_loss
from distill.training.distillation.method import Networks
from distill.training.ema import EMA
from distill.training.optimizer import OptimizerSettings, Updater
from distill.types import Condition, Prediction, Scores

BASE = """
task: distill
run_dir: unused
steps: 10
data: {name: digits}
teacher: {name: native, path: unused}
generator: {init_noise_to_signal: 2.5}
objective: {name: distribution_matching, divergence: reverse_kl}
"""
CONSTANT = {"gan_noise": 0.9, "discriminator_noise": 0.8, "real_noise": 0.7}


@pytest.fixture
def make(tmp_path: Path):
    def build(text: str):
        """Networks, method and a batch of four with noise of its own for everything that the discriminator sees."""
        (tmp_path / "run.yaml").write_text(BASE + text)
        config = read_config(tmp_path / "run.yaml")
        torch.manual_seed(0)
        teacher = UNet(UNetConfig(8, 1, 10, sizes=UNetSizes(width=16, blocks=1)))
        for parameter in teacher.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        teacher.eval().requires_grad_(False)
        fake = copy.deepcopy(teacher).requires_grad_(True)
        discriminator = config.discriminator.build(teacher, fake) if config.discriminator else None
        networks = Networks(teacher, fake, build_generator(config.generator, teacher), discriminator)
        noise = {name: torch.randn(4, 1, 8, 8) for name in ("z", "eps", "eps_fake", "eps_real", "real")}
        own = {
            name: Noise(torch.full((4,), u), torch.randn(4, 1, 8, 8))
            for name, u in CONSTANT.items()
            if name in config.own_noise
        }
        batch = Batch(
            cond=Condition(torch.tensor([1, 2, 3, 4])), u=torch.rand(4), u_fake=torch.rand(4), **noise, **own
        )
        return networks, build_method(config, torch.device("cpu")), batch

    return build


def sigma_at(u: float) -> torch.Tensor:
    """The level of quantile u of log sigma ~ N(-1.2, 1.2^2), for four samples."""
    return torch.full(
        (4,), math.exp(-1.2 + 1.2 * float(torch.distributions.Normal(0, 1).icdf(torch.tensor(u))))
    )


# The GAN term.


def seen(x0: torch.Tensor, teacher: torch.Tensor, logits: torch.Tensor) -> TermInputs:
    one = torch.ones(len(x0), 1, 1, 1)
    scores = Scores(x0, x0, one, one, teacher, teacher, torch.zeros(len(x0)))
    return TermInputs(scores, Condition(), torch.nn.Identity(), Prediction(teacher), logits)


def test_the_gan_term_weighted_as_dmd_is_divided_by_each_sample_s_distance_from_the_teacher() -> None:
    x0 = torch.zeros(2, 1, 2, 2)
    teacher = torch.stack([torch.full((1, 2, 2), 0.5), torch.tensor([[[0.1, -0.3], [0.3, -0.1]]])])
    inputs = seen(x0, teacher, torch.tensor([0.0, math.log(3)]))
    plain, weighted = Gan("none")(inputs), Gan("dmd")(inputs)
    torch.testing.assert_close(plain.loss, torch.tensor([math.log(2), math.log(4 / 3)]))
    torch.testing.assert_close(weighted.loss, torch.tensor([math.log(2) / 0.5, math.log(4 / 3) / 0.2]))
    torch.testing.assert_close(weighted.metrics["factor"], torch.tensor([2.0, 5.0]))


def test_a_logit_for_each_position_counts_by_the_mean_loss() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])
    image = torch.zeros(1, 1, 1, 2)
    loss = Gan()(seen(image, image, logits)).loss
    torch.testing.assert_close(loss, torch.tensor([(math.log(2) + math.log(4 / 3)) / 2]))


def test_the_gan_s_own_noise_is_at_the_levels_of_the_fake_score(make) -> None:
    text = "discriminator: {reads: fake}\nterms: [{name: gan, weight: 0.5, own_noise: true}]\n"
    networks, method, batch = make(text)
    x0 = torch.randn(4, 1, 8, 8, requires_grad=True)
    losses, _ = generator_loss(networks, method, batch, x0, 0)
    sigma = sigma_at(CONSTANT["gan_noise"])
    add_noise = x0 + sigma.reshape(4, 1, 1, 1) * batch.gan_noise.eps
    logits = networks.discriminator(networks.fake.features(add_noise, sigma, batch.cond, ("bottleneck",)))
    torch.testing.assert_close(losses["gan"], 0.5 * binary_cross_entropy_with_logits(logits, torch.ones(4)))
    (gradient,) = torch.autograd.grad(losses["gan"], x0)
    assert gradient.abs().flatten(1).sum(1).min() > 0


def test_the_discriminator_s_own_noise_is_one_for_student_and_one_for_real_images(make) -> None:
    networks, method, batch = make("discriminator: {reads: fake, weight: 3, own_noise: true}\n")
    x0 = torch.randn(4, 1, 8, 8)
    losses, _ = fake_loss(networks, method, batch, x0)
    expected = 0.0
    for name, images, label in (("discriminator_noise", x0, 0.0), ("real_noise", batch.real, 1.0)):
        sigma, noise = sigma_at(CONSTANT[name]), getattr(batch, name)
        seen = networks.fake.features(
            images + sigma.reshape(4, 1, 1, 1) * noise.eps, sigma, batch.cond, ("bottleneck",)
        )
        expected = expected + 3 * binary_cross_entropy_with_logits(
            networks.discriminator(seen), torch.full((4,), label)
        )
    torch.testing.assert_close(losses["discriminator"], expected)


def test_own_noise_leaves_all_other_random_numbers_as_they_were() -> None:
    sizes = ((1, 8, 8), 10, None, 6, 0, torch.device("cpu"))
    without, having = (
        next(Batches(*sizes, own_noise=names).starting_at(3)) for names in ((), tuple(CONSTANT))
    )
    for name in ("z", "u", "eps", "u_fake", "eps_fake", "eps_real", "crop_positions"):
        assert torch.equal(getattr(without, name), getattr(having, name))
    assert without.gan_noise is None
    drawn = [getattr(having, name) for name in CONSTANT]
    assert len({float(noise.u[0]) for noise in drawn}) == 3
    half = next(Batches(*sizes, process=1, processes=2, own_noise=tuple(CONSTANT)).starting_at(3))
    assert torch.equal(half.real_noise.eps, having.real_noise.eps[3:])
    assert torch.equal(having.split(4)[1].gan_noise.u, having.gan_noise.u[4:])


# Heads.


def test_the_channel_mean_is_a_logit_for_each_position() -> None:
    features = {"8": torch.tensor([[[[1.0, 2.0]], [[3.0, -2.0]]]]), "4": torch.tensor([[[[7.0]], [[5.0]]]])}
    assert ChannelMean(("8", "4"))(features).tolist() == [[2.0, 0.0, 6.0]]


def test_with_the_channel_mean_only_the_fake_score_learns_to_tell_images_apart(make) -> None:
    networks, method, batch = make(
        'discriminator: {reads: fake, depths: ["4"], heads: channel_mean}\nratio: {}\n'
    )
    assert list(networks.discriminator.parameters()) == []
    x0 = torch.randn(4, 1, 8, 8)
    losses, _ = fake_loss(networks, method, batch, x0)
    sigma = (-1.2 + 1.2 * torch.distributions.Normal(0, 1).icdf(batch.u_fake)).exp()
    expected = 0.0
    for images, eps, label in ((x0, batch.eps_fake, 0.0), (batch.real, batch.eps_real, 1.0)):
        pixels = networks.fake.features(images + sigma.reshape(4, 1, 1, 1) * eps, sigma, batch.cond, ("4",))[
            "4"
        ].mean(1)
        expected = expected + binary_cross_entropy_with_logits(pixels, torch.full_like(pixels, label))
    torch.testing.assert_close(losses["discriminator"], expected)
    losses["discriminator"].backward()
    assert any(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in networks.fake.parameters()
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "{reads: teacher, heads: channel_mean}",
            "channel_mean has no weights, and the teacher does not learn; expected reads: fake",
        ),
        (
            "{reads: fake, heads: channel_mean, r1: {weight: 1}}",
            "penalises trained heads; expected r1: null with heads: channel_mean",
        ),
    ],
)
def test_heads_that_cannot_learn_are_refused(make, settings: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(f"discriminator: {settings}\n")


def outputs_of(layer: torch.nn.Module) -> list[torch.Tensor]:
    """A list that the layer's outputs go to as it runs."""
    outputs: list[torch.Tensor] = []
    layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    return outputs


def test_a_smallest_resolution_is_the_end_of_the_encoder_and_bottleneck_what_the_middle_makes_of_it() -> None:
    from distill.networks.edm.edm import DhariwalUNet, DhariwalUNetConfig, SongUNet, SongUNetConfig

    torch.manual_seed(0)
    sizes = {
        "resolution": 16,
        "channels": 3,
        "label_count": 0,
        "width": 8,
        "multipliers": (1, 2),
        "blocks": 2,
    }
    for network in (SongUNet(SongUNetConfig(**sizes), 3), DhariwalUNet(DhariwalUNetConfig(**sizes), 3)):
        last, middle = outputs_of(network.enc["8x8_block1"]), outputs_of(network.dec["8x8_in1"])
        _, _, features = network.encode(torch.randn(1, 3, 16, 16), network.embed(torch.tensor([0.1]), None))
        assert torch.equal(features["8"], last[0])
        assert torch.equal(features["bottleneck"], middle[0])


# The ratio.


def test_the_ratio_of_the_batch_s_loss_is_one_number_for_all_samples() -> None:
    """ln 2, the loss of a discriminator that cannot tell, over the 3072 elements of a CIFAR image: 1.000226."""
    ratio, u = BatchLossRatio(), torch.rand(4)
    assert ratio(torch.zeros(4), u, 3072).tolist() == [0.0] * 4
    ratio.observe(torch.zeros(4), u)
    ratio.commit(lambda total: total)
    found = ratio(torch.full((4,), 3.0), u, 3072).exp()
    torch.testing.assert_close(found, torch.full((4,), 1.000225655))
    ratio.observe(torch.full((4,), 3.0), u)
    ratio.commit(lambda total: total)
    assert ratio(torch.zeros(4), u, 3072)[0].exp().item() == pytest.approx(
        math.exp(math.log(1 + math.exp(-3)) / 3072), rel=1e-7
    )


def test_forward_kl_with_the_ratio_of_the_batch_s_loss_trains_as_sida() -> None:
    torch.manual_seed(0)
    x0, teacher, fake = (torch.randn(3, 3, 4, 4, dtype=torch.float64) for _ in range(3))
    sigma = torch.full((3, 1, 1, 1), 0.7, dtype=torch.float64)
    gradients = []
    for log_ratio, objective in (
        (
            math.log(2) / 3072,
            lambda s: expanded_divergence(
                s, divergence=parse("forward_kl"), parts=PUBLISHED_PARTS, weighting="dmd"
            ),
        ),
        (0.0, lambda s: score_matching(s, distance="l2", alpha=1.0, weighting="dmd")),
    ):
        x = x0.clone().requires_grad_(True)
        x_t = x + sigma
        seen = Scores(
            x,
            x_t,
            torch.ones_like(sigma),
            sigma,
            x_t * teacher,
            x_t.sin() * fake,
            torch.full((3,), log_ratio, dtype=torch.float64),
        )
        (gradient,) = torch.autograd.grad(objective(seen).loss.sum(), x)
        gradients.append(gradient)
    ours, sida = gradients
    scale = float((ours * sida).sum() / sida.square().sum())
    assert (ours - scale * sida).norm() / ours.norm() < 1e-3
    assert torch.nn.functional.cosine_similarity(ours.flatten(), sida.flatten(), dim=0) > 0.999999


def test_before_its_start_the_ratio_weighs_all_samples_alike_and_is_already_observed(make) -> None:
    networks, method, batch = make("discriminator: {reads: teacher}\nratio: {start_step: 5, bins: 1}\n")
    method = dataclasses.replace(method, ratio=DensityRatio(parse("jensen_shannon"), bins=1))
    x0 = torch.randn(4, 1, 8, 8, requires_grad=True)
    _, before = generator_loss(networks, method, batch, x0, 4)
    assert before["ratio/log_ratio_mean"] == 0
    assert method.ratio.scale_of_one == pytest.approx(2.0)  # h(1) = 1/2 for Jensen-Shannon
    method.ratio.commit(lambda total: total)
    assert method.ratio.r_mean.total[1].sum() == 4
    _, after = generator_loss(networks, method, batch, x0, 5)
    assert after["ratio/log_ratio_std"] > 0


# Optimisers and averages.


def test_a_gradient_is_clipped_by_value_element_by_element() -> None:
    network = torch.nn.Linear(2, 1, bias=False)
    settings = OptimizerSettings(name="adam", lr=1.0, betas=(0.0, 0.0), eps=1.0, clip_grad_value=0.5)
    updater = Updater("network", network, settings, 10, Accelerator(cpu=True))
    before = network.weight.detach().clone()
    network.weight.grad = torch.tensor([[0.25, -3.0]])
    assert updater.update(0).item() == pytest.approx(math.hypot(0.25, 3.0))
    # Adam without memory moves by g / (|g| + eps).
    torch.testing.assert_close(before - network.weight.detach(), torch.tensor([[0.25 / 1.25, -0.5 / 1.5]]))


def test_an_average_of_decay_0_is_the_network_itself() -> None:
    network = torch.nn.Linear(2, 2)
    average = EMA(network, 0.0)
    for parameter in network.parameters():
        parameter.data.add_(1.0)
    average.update(network)
    assert torch.equal(average.average.weight, network.weight)
