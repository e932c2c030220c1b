"""Classifier-free guidance: both sides in one pass, and each network of a step with its own scale."""

import pytest
import torch
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.diffusion.guidance import guided
from distill.diffusion.guidance_scales import GuidanceScales
from distill.diffusion.noise_levels import LogNormal
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import sample_teacher
from distill.diffusion.schedules import EDM
from distill.divergences import parse
from distill.networks.discriminator import ChannelMean
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.networks.mlp import MLP, MLPConfig
from distill.networks.sizes import MLPSizes, UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.objectives import distribution_matching
from distill.training.batches import Batch
from distill.training.distillation.losses import fake_loss, generator_loss
from distill.training.distillation.method import Method, Networks
from distill.types import Condition, Denoiser, Generator, LossOutput, Scores, Text

LABELS = torch.tensor([2, 0, 1])


def randomised(network: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def mixture() -> GaussianMixture:
    means = torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.0, -1.0]])
    return GaussianMixture(torch.ones(3), means, torch.full((3, 2), 0.5), EDM(), labels=torch.arange(3))


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (randomised(UNet(UNetConfig(8, 1, 3, sizes=UNetSizes(width=8, blocks=1)))), (1, 8, 8)),
        (randomised(MLP(MLPConfig(2, 3, sizes=MLPSizes(width=16)), EDM())), (2,)),
        (mixture(), (2,)),
    ],
    ids=["unet", "mlp", "mixture"],
)
def test_it_extrapolates_from_no_label_through_the_label(network: Denoiser, shape: tuple[int, ...]) -> None:
    x_t, t = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 1.0, 2.0])
    conditional, unconditional = network(x_t, t, Condition(LABELS)), network(x_t, t, Condition())
    assert (conditional - unconditional).abs().max() > 1e-3
    for scale in (-1.0, 0.0, 1.0, 3.0):
        expected = unconditional + scale * (conditional - unconditional)
        torch.testing.assert_close(
            guided(network, x_t, t, Condition(LABELS), scale).x0, expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_one_side_takes_one_pass_of_the_batch(scale: float) -> None:
    """A scale of 0 sees no label, as Zero-CFG trains its fake score; a scale of 1 sees the batch's."""
    network, seen = mixture(), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    x_t = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    found = guided(network, x_t, torch.ones(3), Condition(LABELS), scale).x0
    ((x_seen, _, cond),) = seen
    assert x_seen.shape == (3, 2)
    assert cond.label.tolist() == (LABELS.tolist() if scale else [-1, -1, -1])
    torch.testing.assert_close(found, network(x_t, torch.ones(3), cond))


def reader() -> tuple[Denoiser, list[Condition]]:
    """Return a denoiser of text, and the conditions that it saw."""
    seen: list[Condition] = []

    class Reader(Constant):
        def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
            seen.append(cond)
            return x_t

    return Reader(1.0), seen


def test_text_is_left_out_at_a_scale_of_0() -> None:
    network, seen = reader()
    text = Text({"tokens": torch.ones(2, 4, 3)}, {"tokens": torch.full((1, 4, 3), 7.0)}, ("a cat", "a dog"))
    guided(network, torch.zeros(2, 2), torch.ones(2), Condition(text=text), 0.0)
    assert seen[0].text.given["tokens"].eq(7).all()
    assert seen[0].text.prompts == ("", "")


def test_a_scale_of_0_reads_nothing_of_the_device() -> None:
    """On a GPU a read would wait for it in each pass; meta tensors have nothing to read."""
    given, nothing = torch.ones(2, 4, 3, device="meta"), torch.ones(1, 4, 3, device="meta")
    cond = Condition(text=Text({"tokens": given}, {"tokens": nothing}, ("a cat", "a dog")))
    x_t = torch.zeros(2, 2, device="meta")
    network, seen = reader()
    guided(network, x_t, torch.ones(2, device="meta"), cond, 0.0)
    assert seen[0].text.prompts == ("", "")


def test_features_are_the_conditional_ones() -> None:
    network = randomised(UNet(UNetConfig(8, 1, 3, sizes=UNetSizes(width=8, blocks=1))))
    x_t, t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(3)
    critic = ChannelMean(["bottleneck"])
    expected = critic(network.features(x_t, t, Condition(LABELS), critic.depths))
    for scale in (3.0, 1.0, 0.0, -1.0):
        torch.testing.assert_close(guided(network, x_t, t, Condition(LABELS), scale, critic).logits, expected)


def test_without_a_condition_there_is_nothing_to_guide() -> None:
    with pytest.raises(ValueError, match="guidance: needs a condition; found none"):
        guided(mixture(), torch.zeros(1, 2), torch.ones(1), Condition(), 2.0)


def test_a_teacher_without_a_condition_is_not_sampled_with_guidance() -> None:
    teacher = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1, 2), EDM())
    with pytest.raises(UserError, match="guidance: is 2, and the teacher has no condition; expected 1"):
        sample_teacher(teacher, range(2), Condition(), Heun(steps=2, guidance=2.0))


class Constant(Denoiser):
    """Predicts its value, and without a label 0."""

    schedule, image_shape, label_count = EDM(), (2,), 3

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition) -> Tensor:
        assert cond.label is not None
        return torch.where(cond.label[:, None] < 0, 0.0, self.value).expand(x_t.shape)

    def target_weight(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class Still(Generator):
    image_shape, label_count = (2,), 3

    def forward(self, z: Tensor, cond: Condition) -> Tensor:
        return z


def test_each_network_of_a_step_has_its_scale() -> None:
    seen: list[Scores] = []

    def objective(scores: Scores) -> LossOutput:
        seen.append(scores)
        return LossOutput(scores.x0.sum(1))

    levels = LogNormal()
    method = Method(
        objective,
        False,
        1.0,
        None,
        (),
        levels,
        levels,
        GuidanceScales(teacher=2.0, fake=3.0, fake_training=5.0),
    )
    networks = Networks(Constant(1.0), Constant(10.0), Still())
    x0, u = torch.zeros(3, 2, requires_grad=True), torch.full((3,), 0.5)
    batch = Batch(x0, Condition(LABELS), u, x0.detach(), u, x0.detach(), None, x0.detach())
    generator_loss(networks, method, batch, x0, method.at(0))
    assert (seen[0].teacher[0, 0].item(), seen[0].fake[0, 0].item()) == (2.0, 30.0)
    assert fake_loss(networks, method, batch, x0)[0]["fake"].item() == 50.0**2


def exact_gradient(guidance: GuidanceScales, cond: Condition, x0: Tensor) -> Tensor:
    """Return DMD's gradient at samples, in units of the score, where the fake score is an exact mixture."""
    levels, u = LogNormal(mean=0.0), torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)

    def objective(scores: Scores) -> LossOutput:
        return distribution_matching(scores, parse("reverse_kl"), "score")

    method = Method(objective, False, 1.0, None, (), levels, levels, guidance)
    networks = Networks(mixture().double(), student_mixture(), Still())
    eps = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    batch = Batch(x0, cond, u, eps, u, eps)
    losses, _ = generator_loss(networks, method, batch, x0, method.at(0))
    return torch.autograd.grad(losses["objective"], x0)[0]


def student_mixture() -> GaussianMixture:
    """Return the distribution of a student whose classes differ from the teacher's."""
    means = torch.tensor([[0.5, 0.5], [1.0, -1.0], [-1.0, 1.0]])
    return GaussianMixture(
        torch.ones(3), means, torch.full((3, 2), 0.8), EDM(), labels=torch.arange(3)
    ).double()


def test_zero_cfg_is_the_marginal_divergence_and_the_probability_of_the_label() -> None:
    """The gradient is that of log q_t(x_t)/p_t(x_t) - log p_t(c|x_t), with the student's marginal q_t.

    It comes from the exact densities by autograd, sample by sample.
    """
    x0 = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x0.requires_grad_(True)
    found = exact_gradient(GuidanceScales(teacher=1.0, fake=0.0, fake_training=0.0), Condition(LABELS), x0)
    sigma = LogNormal(mean=0.0).t(torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64), EDM())
    eps = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x_t = x0 + sigma[:, None] * eps
    teacher, student = mixture().double(), student_mixture()
    marginal = student.log_density(x_t, sigma, Condition()) - teacher.log_density(x_t, sigma, Condition())
    posterior = teacher.log_density(x_t, sigma, Condition(LABELS)) - teacher.log_density(
        x_t, sigma, Condition()
    )
    (expected,) = torch.autograd.grad((marginal - posterior).sum(), x0)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found * x0.numel(), expected, rtol=1e-8, atol=1e-10)
