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
from distill.networks.discriminator import ChannelMean
from distill.networks.exact.gaussian_mixture import GaussianMixture
from distill.networks.mlp import MLP, MLPConfig
from distill.networks.sizes import MLPSizes, UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.training.batches import Batch
from distill.training.distillation.losses import fake_loss, generator_loss
from distill.training.distillation.method import Method, Networks
from distill.types import Condition, Denoiser, Generator, LossOutput, Scores

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
    for scale in (0.0, 1.0, 3.0):
        expected = unconditional + scale * (conditional - unconditional)
        torch.testing.assert_close(
            guided(network, x_t, t, Condition(LABELS), scale).x0, expected, rtol=1e-4, atol=1e-5
        )


def test_features_are_the_conditional_ones() -> None:
    network = randomised(UNet(UNetConfig(8, 1, 3, sizes=UNetSizes(width=8, blocks=1))))
    x_t, t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.ones(3)
    critic = ChannelMean(["bottleneck"])
    logits = guided(network, x_t, t, Condition(LABELS), 3.0, critic).logits
    torch.testing.assert_close(logits, critic(network.features(x_t, t, Condition(LABELS), critic.depths)))


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
