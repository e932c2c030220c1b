"""Networks with channels last give the same numbers, and hold their activations with channels last."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from distill.networks.computation.memory_format import use_channels_last
from distill.networks.discriminator import Discriminator
from distill.networks.edm.edm2 import MPConv
from distill.networks.folder import load_denoiser, save_model
from distill.storage.tensors import load_tensors
from distill.students.lora import Student as LoRA
from distill.teachers.diffusers import Settings
from distill.training.optimization.ema import EMA
from distill.types import Denoiser
from tests.helpers.diffusers_families import UNETS
from tests.helpers.diffusers_inputs import condition, noise
from tests.helpers.small_networks import NETWORKS, assert_near, gradients, inputs, small_network


def outputs_of_convolutions(network: nn.Module) -> list[Tensor]:
    """Return a list that collects the outputs of convolutions on more than one position as they run."""
    outputs: list[Tensor] = []

    def collect(module: nn.Module, given: object, output: Tensor) -> None:
        if output.ndim == 4 and output.shape[1] > 1 and output.shape[2] > 1:
            outputs.append(output)

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, MPConv, nn.GroupNorm)):
            module.register_forward_hook(collect)
    return outputs


def are_channels_last(tensors: list[Tensor]) -> bool:
    return all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in tensors)


@pytest.mark.parametrize("name", [*NETWORKS, "ncsn++"])
def test_own_networks_have_the_same_values_and_gradients(name: str) -> None:
    if name == "ncsn++":
        pyramid = {"encoder": "residual", "resample_filter": (1, 3, 3, 1)}
        network = small_network("song", noise_embedding="fourier", **pyramid)
    else:
        network = small_network(name)
    given = inputs(network)
    expected = gradients(network, *given)
    use_channels_last(network)
    activations = outputs_of_convolutions(network)
    found = gradients(network, *given)
    assert_near(found, expected)
    assert len(activations) > 15
    assert are_channels_last(activations)


@pytest.mark.parametrize("family", ["ddpm", "sdxl"])
def test_networks_and_autoencoders_of_diffusers_have_the_same_values(family: str, tmp_path: Path) -> None:
    teacher = Settings(path=str(UNETS[family](tmp_path / family))).load()
    teacher.requires_grad_(True)
    given = noise(teacher), torch.tensor([200.0, 700.0]), condition(teacher)
    expected, images = gradients(teacher, *given), teacher.decode(given[0])
    use_channels_last(teacher)
    parts = [teacher, *teacher.frozen_components().values()]
    activations = [outputs_of_convolutions(part) for part in parts]
    assert_near(gradients(teacher, *given), expected)
    torch.testing.assert_close(teacher.decode(given[0]), images, rtol=1e-4, atol=1e-5)
    convolutions = [value for values in activations for value in values]
    last = [value.is_contiguous(memory_format=torch.channels_last) for value in convolutions]
    assert sum(last) > 0.9 * len(last)


def test_adapters_and_heads_take_it_too(tmp_path: Path) -> None:
    teacher = Settings(path=str(UNETS["sdxl"](tmp_path / "sdxl"))).load()
    student = LoRA(rank=4, targets=("to_q", "conv1")).build(teacher, 80.0)
    z, cond = noise(teacher), condition(teacher)
    expected = student(z, cond)
    use_channels_last(student)
    torch.testing.assert_close(student(z, cond), expected, rtol=1e-4, atol=1e-5)
    heads = Discriminator("teacher", {"8": 4}, width=8)
    features = {"8": torch.randn(3, 4, 8, 8)}
    logits = heads(features)
    use_channels_last(heads)
    activations = outputs_of_convolutions(heads)
    torch.testing.assert_close(heads(features), logits, rtol=1e-4, atol=1e-5)
    assert are_channels_last(activations)


def test_copies_averages_gradients_and_optimisers_keep_it() -> None:
    network = small_network("unet")
    use_channels_last(network)
    average = EMA(network, 0.9)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(*inputs(network)).square().mean().backward()
    optimizer.step()
    average.update()
    weight = network.stem.weight
    assert weight.grad is not None
    copied: Denoiser = copy.deepcopy(network)
    moments = optimizer.state[weight]["exp_avg"]
    assert are_channels_last([weight, weight.grad, copied.stem.weight, average.average.stem.weight, moments])
    assert not weight.is_contiguous()


def test_files_do_not_have_it_and_are_loaded_into_it(tmp_path: Path) -> None:
    network = small_network("unet")
    plain = {name: value.clone() for name, value in network.state_dict().items()}
    use_channels_last(network)
    save_model(network, tmp_path)
    stored = load_tensors(tmp_path / "model.safetensors")
    assert all(
        torch.equal(stored[name], value) and stored[name].is_contiguous() for name, value in plain.items()
    )
    network.load_state_dict({name: value + 1 for name, value in stored.items()})
    assert are_channels_last([network.stem.weight])
    assert torch.equal(network.stem.weight, plain["stem.weight"] + 1)
    assert torch.equal(load_denoiser(tmp_path).stem.weight, plain["stem.weight"])
