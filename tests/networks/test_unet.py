"""Our own network: preconditioning, conditioning, features."""

import pytest
import torch
from pydantic import ValidationError

from distill.networks.sizes import UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.types import Condition


def network(**changes) -> UNet:
    torch.manual_seed(0)
    return UNet.from_description(
        {"resolution": 8, "channels": 1, "label_count": 10, "width": 16, "attention": (4,), **changes}
    )


def stirred(**changes) -> UNet:
    """Make a network whose layers are no longer zero, as after training."""
    net = network(**changes)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval()


def test_an_untrained_network_predicts_by_the_preconditioning_alone() -> None:
    """The last layer starts at zero, which leaves c_skip x_t.

    c_skip is sigma_data^2/(sigma^2 + sigma_data^2) (Karras et al. 2022, table 1).
    """
    x_t, t = torch.randn(3, 1, 8, 8), torch.tensor([0.01, 0.5, 80.0])
    expected = (0.5**2 / (t**2 + 0.5**2)).reshape(3, 1, 1, 1) * x_t
    torch.testing.assert_close(network()(x_t, t, Condition(torch.tensor([1, 2, 3]))), expected)


def test_the_loss_weight_makes_the_network_s_own_target_unit_weight() -> None:
    """lambda(sigma) c_out(sigma)^2 = 1 (Karras et al. 2022, eq. 8)."""
    t = torch.tensor([0.002, 0.3, 1.0, 80.0], dtype=torch.float64)
    c_out = t * 0.5 / (t**2 + 0.5**2).sqrt()
    torch.testing.assert_close(network().target_weight(t) * c_out**2, torch.ones_like(t))


def test_features_are_those_that_the_prediction_passes_through() -> None:
    net = stirred()
    x_t, t, cond = torch.randn(2, 1, 8, 8), torch.tensor([0.3, 2.0]), Condition(torch.tensor([4, 7]))
    x0, features = net(x_t, t, cond, ("8", "bottleneck"))
    alone = net.features(x_t, t, cond, ("8", "bottleneck"))
    assert torch.equal(x0, net(x_t, t, cond))
    assert {name: tuple(value.shape) for name, value in features.items()} == {
        "8": (2, 16, 8, 8),
        "bottleneck": (2, 32, 4, 4),
    }
    for name, value in features.items():
        assert torch.equal(value, alone[name])
        assert value.shape[1] == net.depth_channels[name]


def test_label_and_noise_level_matter_and_no_label_is_one_more_condition() -> None:
    net = stirred()
    x_t, t = torch.randn(1, 1, 8, 8), torch.tensor([0.7])
    predictions = [net(x_t, t, Condition(label)) for label in (torch.tensor([3]), torch.tensor([4]), None)]
    assert len({prediction.sum().item() for prediction in predictions}) == 3
    assert not torch.equal(net(x_t, t, Condition()), net(x_t, 2 * t, Condition()))


def test_samples_of_a_batch_are_independent() -> None:
    net = stirred()
    x_t, t, cond = torch.randn(4, 1, 8, 8), torch.rand(4) + 0.1, Condition(torch.tensor([0, 1, 2, 3]))
    together = net(x_t, t, cond)
    apart = torch.cat([net(x_t[i : i + 1], t[i : i + 1], cond[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("resolution", "multipliers"), [(16, (1, 2, 2)), (32, (1, 1, 2)), (64, (1, 2, 3, 4))]
)
def test_it_scales_to_larger_images(resolution: int, multipliers: tuple[int, ...]) -> None:
    net = network(resolution=resolution, channels=3, label_count=0, multipliers=multipliers, attention=(8,))
    assert net(torch.randn(1, 3, resolution, resolution), torch.ones(1), Condition()).shape == (
        1,
        3,
        resolution,
        resolution,
    )
    assert list(net.depth_channels) == [str(resolution >> i) for i in range(len(multipliers))] + [
        "bottleneck"
    ]


def test_a_resolution_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match="resolution 12 is not divisible by 8"):
        UNetConfig(12, 1, sizes=UNetSizes(multipliers=(1, 1, 1, 1)))


def test_attention_at_a_resolution_that_is_no_level_is_refused() -> None:
    with pytest.raises(ValueError, match="attention: 7 is no level; expected one of 8, 4"):
        UNetConfig(8, 1, sizes=UNetSizes(multipliers=(1, 2), attention=(7,)))


@pytest.mark.parametrize("multipliers", [[], [0], [1, -1]])
def test_levels_without_channels_are_refused(multipliers: list[int]) -> None:
    with pytest.raises(ValidationError, match="multipliers"):
        UNetSizes.model_validate({"multipliers": multipliers})
