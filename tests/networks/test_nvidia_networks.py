"""EDM's and EDM2's networks against the published ones.

`oracles/nvidia_networks.safetensors` holds the outputs of the published code (NVlabs/edm
`training/networks.py`, NVlabs/edm2 `training/networks_edm2.py`, on torch 2.13), in evaluation mode and
float32, for small networks whose weights and inputs are those of `seeded_weights`. Its metadata holds each
network's class and arguments, and the names and shapes of its state.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from distill.config.errors import UserError
from distill.networks.edm.arguments import describe_network
from distill.networks.edm.edm import DhariwalUNetConfig, EDMNetwork, SongUNetConfig
from distill.networks.edm.edm2 import EDM2Config, EDM2Network
from distill.networks.edm.preconditioning import EDMPrecond, Preconditioned, VEPrecond, VPPrecond
from distill.networks.edm.published import meta_network
from distill.networks.folder import build_network, load_denoiser, save_model
from distill.types import Condition
from tests.helpers.seeded_weights import normal, seeded_weights

ORACLE = Path(__file__).parents[1] / "oracles" / "nvidia_networks.safetensors"
with safe_open(ORACLE, "pt") as oracle:
    CASES = json.loads(oracle.metadata()["cases"])
    OUTPUTS = {name: oracle.get_tensor(name) for name in oracle.keys()}  # noqa: SIM118 - it is no mapping
T = torch.tensor([0.02, 0.7, 40.0])
LABELS = Condition(torch.tensor([0, 3, 4]))


def network(case: str) -> Preconditioned:
    net = build_network(describe_network(CASES[case]["class"], CASES[case]["arguments"]), ORACLE).eval()
    net.load_state_dict(seeded_weights(net.state_dict()))
    return net


def noisy(case: str, net: Preconditioned) -> Tensor:
    return normal(case, (3, *net.image_shape)) * (1 + T.reshape(-1, 1, 1, 1) ** 2).sqrt()


@pytest.mark.parametrize("case", CASES)
def test_state_names_and_shapes_are_the_published_ones(case: str) -> None:
    assert {name: list(value.shape) for name, value in network(case).state_dict().items()} == CASES[case][
        "shapes"
    ]


@pytest.mark.parametrize("name", [name for name in OUTPUTS if not name.endswith("logvar")])
@torch.no_grad()
def test_predictions_are_the_published_ones(name: str) -> None:
    case, kind = name.split("/")
    net = network(case)
    prediction = net(noisy(case, net), T, LABELS if kind == "output" else Condition())
    for mine, published in zip(prediction, OUTPUTS[name], strict=True):
        torch.testing.assert_close(mine, published, rtol=0, atol=1e-5 * published.abs().max().item())


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("edm2")])
def test_the_uncertainty_is_the_published_one(case: str) -> None:
    torch.testing.assert_close(network(case).logvar(T), OUTPUTS[f"{case}/logvar"], rtol=0, atol=1e-6)


CIFAR = {
    "model_type": "SongUNet",
    "model_channels": 128,
    "channel_mult": [2, 2, 2],
    "augment_dim": 9,
    "img_resolution": 32,
    "img_channels": 3,
}
NCSN = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
IMAGENET = {"img_resolution": 64, "img_channels": 3, "label_dim": 1000}


@pytest.mark.parametrize(
    ("class_name", "arguments", "count"),
    [
        ("EDMPrecond", CIFAR, 55_733_891),
        ("EDMPrecond", CIFAR | {"label_dim": 10}, 55_735_299),
        ("EDMPrecond", CIFAR | NCSN, 56_397_827),
        ("EDMPrecond", CIFAR | {"img_resolution": 64, "channel_mult": [1, 2, 2, 2]}, 61_805_571),
        ("EDMPrecond", IMAGENET | {"model_type": "DhariwalUNet"}, 295_899_267),
        ("Precond", IMAGENET | {"img_channels": 4, "model_channels": 128}, 124_713_253),
        ("Precond", IMAGENET | {"img_channels": 4, "model_channels": 192}, 280_212_837),
        ("Precond", IMAGENET | {"model_channels": 192}, 280_209_381),
    ],
)
def test_full_sizes_have_the_published_number_of_parameters(
    class_name: str, arguments: dict, count: int
) -> None:
    with torch.device("meta"):
        net = build_network(describe_network(class_name, arguments), ORACLE)
    assert sum(parameter.numel() for parameter in net.parameters()) == count


@pytest.mark.parametrize("case", ["ncsnpp_edm_cond", "adm_edm_cond", "edm2_cond"])
@torch.no_grad()
def test_features_are_those_that_the_prediction_passes_through(case: str) -> None:
    net = network(case)
    x_t, depths = noisy(case, net), tuple(net.depth_channels)
    x0, features = net(x_t, T, LABELS, depths)
    alone = net.features(x_t, T, LABELS, depths)
    assert torch.equal(x0, net(x_t, T, LABELS))
    for depth, value in features.items():
        resolution = (
            min(int(name) for name in depths if name != "bottleneck") if depth == "bottleneck" else int(depth)
        )
        assert value.shape == (3, net.depth_channels[depth], resolution, resolution)
        assert torch.equal(value, alone[depth])
    assert not torch.equal(features["bottleneck"], features[depths[-2]])


def test_the_depths_of_the_cifar_network_are_those_that_recipes_name() -> None:
    with torch.device("meta"):
        net = build_network(describe_network("EDMPrecond", CIFAR), ORACLE)
    assert net.depth_channels == {"32": 256, "16": 256, "8": 256, "bottleneck": 256}


@pytest.mark.parametrize(
    ("precond", "expected"),
    [
        (EDMPrecond(0.5), lambda t: (t**2 + 0.25) / (0.5 * t) ** 2),
        (VPPrecond(), lambda t: t**-2),
        (VEPrecond(), lambda t: t**-2),
    ],
)
def test_the_loss_weight_makes_the_network_s_own_target_unit_weight(precond, expected) -> None:
    """EDM: Karras et al. 2022, eq. 8. VP and VE networks predict noise: the error of x_0 over sigma."""
    net = EDMNetwork(SongUNetConfig(8, 1, width=8, multipliers=(1,), blocks=1), precond)
    torch.testing.assert_close(net.target_weight(T), expected(T))


def test_the_step_of_a_variance_preserving_network_is_that_of_its_process() -> None:
    """At step (steps - 1) t, log(1 + sigma^2) is the integral over [0, t] of beta_min + beta_d s."""
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    beta = 0.1 + 19.9 * torch.linspace(0, 1, 20001, dtype=torch.float64)
    sigma = torch.cumulative_trapezoid(beta, dx=1 / 20000).exp().sub(1).sqrt()
    noise = VPPrecond()(sigma[(t * 20000).round().long() - 1]).noise
    torch.testing.assert_close(noise, 999 * t, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "case", ["ddpmpp_vp_cond_augment", "ncsnpp_ve_uncond", "adm_edm_cond", "edm2_latent_uncond"]
)
def test_an_export_opens_as_the_same_network(case: str, tmp_path: Path) -> None:
    net = network(case)
    save_model(net, tmp_path)
    again = load_denoiser(tmp_path).eval()
    assert again.describe() == net.describe()
    with torch.no_grad():
        assert torch.equal(again(noisy(case, net), T, LABELS), net(noisy(case, net), T, LABELS))


def test_training_keeps_edm2_s_weights_at_unit_magnitude_and_gradients_flow_through_two_passes() -> None:
    """The magnitude r of a row becomes r/(r + 1e-4) (eq. 66), which a second pass leaves unchanged."""
    net = network("edm2_cond").train()
    x_t = noisy("edm2_cond", net)
    (net(x_t, T, LABELS).square().mean() + net(2 * x_t, T, LABELS).square().mean()).backward()
    for name, parameter in net.unet.named_parameters():
        assert parameter.grad is not None, name
        if parameter.ndim:
            rows = parameter.detach().flatten(1).square().mean(1).sqrt()
            torch.testing.assert_close(rows, torch.full_like(rows, 1 - 1e-4), rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SongUNetConfig(12, 3), "resolution 12 does not halve 3 times, as 4 multipliers say"),
        (lambda: SongUNetConfig(16, 3, width=0), "width: expected whole numbers from 1 to 65536"),
        (lambda: SongUNetConfig(16, 3, encoder="skip"), "encoder: expected standard or residual"),
        (
            lambda: SongUNetConfig(16, 3, noise_embedding="none"),
            "noise_embedding: expected positional or fourier",
        ),
        (lambda: DhariwalUNetConfig(16, 3, blocks=10**9), "blocks: expected whole numbers from 1 to 64"),
        (
            lambda: DhariwalUNetConfig(16, 3, multipliers=()),
            "resolution 16 does not halve -1 times, as 0 multipliers say",
        ),
        (lambda: EDM2Config(16, 3, multipliers=(1, 65)), "multipliers: expected whole numbers from 1 to 64"),
        (
            lambda: EDM2Network.from_description({"resolution": 8, "channels": 3, "chanels": 3}),
            "unexpected keyword argument 'chanels'",
        ),
    ],
)
def test_sizes_of_no_network_are_refused(build, message: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        build()
    assert message in str(error.value)


@pytest.mark.parametrize("case", ["adm_edm_cond", "edm2_cond"])
@torch.no_grad()
def test_a_label_of_minus_one_is_none(case: str) -> None:
    net = network(case)
    x_t = noisy(case, net)
    torch.testing.assert_close(net(x_t, T, Condition(torch.full((3,), -1))), net(x_t, T, Condition()))


@pytest.mark.parametrize(
    ("name", "count"),
    [("edm-cifar10-32x32-cond-vp", 55_735_299), ("edm-imagenet-64x64-cond-adm", 295_899_267)],
)
def test_a_published_file_that_is_absent_can_be_built_on_the_meta_device(name: str, count: int) -> None:
    net = meta_network(Path(f"nowhere/{name}.pkl"), "EDMNetwork")
    assert sum(parameter.numel() for parameter in net.parameters() if parameter.is_meta) == count
    with pytest.raises(UserError, match=r"nowhere/mine\.pkl: cannot be read \(No such file or directory\)"):
        meta_network(Path("nowhere/mine.pkl"), "EDMNetwork")
