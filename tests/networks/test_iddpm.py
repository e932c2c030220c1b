"""ADM's networks with the preconditioning of improved DDPM (Karras et al. 2022, table 1).

They have a thousand noise levels, which are known in closed form. The published recursion keeps (u_j^2 + 1)
abar_j the same from level to level, so that with u_1000 = 0

    u_j^2 = abar_1000/abar_j - 1,    abar_j = sin^2(pi/2 j/(1000 (C_2 + 1))),

except for u_0, where abar is 0 and the ratio is kept at C_1: u_0^2 = (u_1^2 + 1)/C_1 - 1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.diffusion.samplers import Heun
from distill.networks.edm.arguments import describe_network
from distill.networks.edm.edm import DhariwalUNetConfig, EDMNetwork, SongUNetConfig
from distill.networks.edm.preconditioning import EDMPrecond, IDDPMPrecond
from distill.networks.edm.published import read_network
from distill.networks.folder import build_network, load_denoiser, save_model
from distill.storage.pickles.reader import PickledObject
from distill.types import Condition
from tests.helpers.published_networks import as_published, published_names
from tests.helpers.seeded_weights import normal, seeded_weights

ADM = {
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 5,
    "model_channels": 64,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [8],
}
LABELS = Condition(torch.tensor([0, 3, 4]))


def closed_form(c_1: float = 0.001, c_2: float = 0.008, steps: int = 1000) -> np.ndarray:
    abar = np.sin(np.pi / 2 * np.arange(1, steps + 1) / (steps * (c_2 + 1))) ** 2
    levels = np.sqrt(abar[-1] / abar - 1)
    return np.array([np.sqrt((levels[0] ** 2 + 1) / c_1 - 1), *levels])


def network(**arguments: float) -> EDMNetwork:
    net = build_network(describe_network("iDDPMPrecond", {**ADM, **arguments}), Path("nowhere")).eval()
    state = {
        name: value if name == "u" else seeded_weights({name: value})[name]
        for name, value in net.state_dict().items()
    }
    net.load_state_dict(state)
    return net


@pytest.mark.parametrize("settings", [{}, {"steps": 4000}, {"c_2": 0.01, "c_1": 0.01, "steps": 250}])
def test_the_levels_are_those_of_the_closed_form(settings: dict) -> None:
    levels = IDDPMPrecond(**settings).levels()
    assert levels[-1] == 0
    np.testing.assert_allclose(levels.numpy(), closed_form(**settings), rtol=1e-4)


def test_the_first_and_last_levels_are_the_published_ones() -> None:
    """They run from 0.0064 to above 80, where ADM's sampler begins (Karras et al. 2022, table 1)."""
    levels = IDDPMPrecond().levels()
    assert round(levels[-2].item(), 4) == 0.0064
    assert levels[0] > 80


def test_it_denoises_any_level_with_the_nearest_step_as_input() -> None:
    """D(x) = x - sigma F(x/sqrt(sigma^2 + 1); 999 - j), with the first three channels of F.

    j counts the levels above the nearest to sigma.
    """
    net, levels = network(), closed_form()
    sigma = torch.tensor([0.02, 0.7, 40.0])
    x_t = normal("x", (3, 3, 8, 8)) * (1 + sigma.reshape(-1, 1, 1, 1) ** 2).sqrt()
    steps: list[Tensor] = []
    net.model.map_noise.register_forward_pre_hook(lambda module, inputs: steps.append(inputs[0]))
    outputs: list[Tensor] = []
    net.model.out_conv.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    entered: list[Tensor] = []
    net.model.enc["8x8_conv"].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    with torch.no_grad():
        prediction = net(x_t, sigma, LABELS)
    expected = []
    for value in sigma.tolist():
        above = int((levels > value).sum())
        nearer_above = levels[above - 1] - value < value - levels[above]
        expected.append(999.0 - (above - 1 if nearer_above else above))
    assert steps[0].tolist() == expected
    assert outputs[0].shape == (3, 6, 8, 8)
    for row, value in enumerate(sigma.tolist()):
        torch.testing.assert_close(entered[0][row], x_t[row] / (value**2 + 1) ** 0.5)
        torch.testing.assert_close(prediction[row], x_t[row] - value * outputs[0][row, :3])


def test_the_input_at_a_level_is_its_own_step() -> None:
    precond, levels = IDDPMPrecond(), torch.from_numpy(closed_form())
    for j in (0, 1, 500, 998, 999):
        assert precond(levels[j : j + 1].float()).noise.item() == 999 - j


def test_the_sampler_stays_on_the_levels() -> None:
    """EDM's sampler begins and ends at levels of the network, and rounds those between, also with churn."""
    net, levels = network(), closed_form()
    seen: list[float] = []
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1][0].item()))
    z, cond = normal("z", (1, 3, 8, 8)), Condition(torch.tensor([1]))
    with torch.no_grad():
        Heun(steps=6, churn=2.0).solve(net, z, cond, lambda step: torch.randn_like(z))
        assert len(seen) == 11
        Heun(steps=2, sigma_max=1e9).solve(net, z, cond, lambda step: z)
    assert np.abs(np.array(seen)[:, None] / levels[:-1] - 1).min(1).max() < 1e-4
    assert seen[11:] == pytest.approx([levels[0], levels[999], levels[999]], rel=1e-4)


def test_other_networks_are_sampled_at_any_level() -> None:
    net = EDMNetwork(SongUNetConfig(8, 1, width=8, multipliers=(1,), blocks=1), EDMPrecond())
    assert net.level_range() == (0.0, np.inf)
    assert net.nearest_level(0.1234) == 0.1234


def test_the_loss_weight_is_that_of_predicted_noise() -> None:
    sigma = torch.tensor([0.02, 0.7, 40.0])
    torch.testing.assert_close(network().target_weight(sigma), sigma**-2)


def test_an_export_opens_as_the_same_network(tmp_path: Path) -> None:
    net = network(M=500)
    save_model(net, tmp_path)
    again = load_denoiser(tmp_path).eval()
    assert again.describe() == net.describe()
    sigma, x_t = torch.tensor([0.02, 0.7, 40.0]), normal("x", (3, 3, 8, 8))
    with torch.no_grad():
        assert torch.equal(again(x_t, sigma, LABELS), net(x_t, sigma, LABELS))


def test_a_published_file_is_opened_with_its_own_levels(tmp_path: Path) -> None:
    """The buffer `u` of a published file holds the levels as the published code rounded them."""
    net = network()
    u = net.u * 1.0001
    parts: dict[str, PickledObject] = {}
    for name, value in {**net.state_dict(), "u": u}.items():
        *path, last = name.split(".")
        for depth in range(len(path) + 1):
            key = ".".join(path[:depth])
            if key not in parts:
                parts[key] = PickledObject("Module", {"_parameters": {}, "_buffers": {}, "_modules": {}})
                if depth:
                    parts[".".join(path[: depth - 1])].state["_modules"][path[depth - 1]] = parts[key]
        parts[".".join(path)].state["_buffers"][last] = value
    whole = parts[""]
    whole.class_name = "iDDPMPrecond"
    whole.state |= {
        "_init_args": (),
        "_init_kwargs": {**ADM, "use_fp16": True, "C_1": 0.001, "C_2": 0.008, "M": 1000},
    }
    with published_names():
        torch.save({"ema": as_published(whole)}, tmp_path / "network.pkl")
    read = read_network(tmp_path / "network.pkl")
    assert isinstance(read, EDMNetwork)
    assert torch.equal(read.u, u)
    assert read.level_range() == (u[999].item(), u[0].item())
    sigma, x_t = torch.tensor([0.02, 0.7, 40.0]), normal("x", (3, 3, 8, 8))
    with torch.no_grad():
        assert torch.equal(read(x_t, sigma, LABELS), net(x_t, sigma, LABELS))


@pytest.mark.parametrize(
    "values", [{"steps": 0}, {"steps": 10**9}, {"c_1": 0.0}, {"c_1": float("nan")}, {"c_2": -1.0}]
)
def test_numbers_that_give_no_levels_are_refused(values: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        IDDPMPrecond(**values)


def test_the_output_has_channels_for_a_variance() -> None:
    config = DhariwalUNetConfig(8, 3, width=64, multipliers=(1,), blocks=1, attention=())
    assert EDMNetwork(config, IDDPMPrecond()).model.out_conv.out_channels == 6
