"""Networks whose weights are bfloat16 compute in bfloat16, cast no weight, and return float32."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.networks.computation.precision import cast_weights, check_reduced_weights
from distill.networks.discriminator import ChannelMean, Discriminator
from distill.networks.edm.edm import EDMNetwork, SongUNetConfig
from distill.networks.edm.preconditioning import IDDPMPrecond
from distill.networks.few_step_generator import FewStepGenerator
from distill.students.lora import Student as LoRA
from distill.teachers.diffusers import Settings
from distill.types import Condition, Denoiser
from tests.helpers.diffusers_families import UNETS
from tests.helpers.diffusers_inputs import condition, noise
from tests.helpers.dispatched import Dispatched
from tests.helpers.small_networks import SIZES, gradients, inputs, small_mlp, small_network

PRODUCTS = ("convolution", "addmm", "mm", "bmm", "_scaled_dot_product_flash_attention_for_cpu")
TOLERANCE = 0.05
"""Relative error: 1/256 for one number of bfloat16, a few times that through the layers of these networks."""


def differ(a: Tensor, b: Tensor) -> float:
    """Return the root mean square of a - b, relative to that of b."""
    a, b = a.detach().float(), b.detach()
    return float((a - b).square().mean().sqrt() / b.square().mean().sqrt())


def ncsnpp() -> Denoiser:
    """Build NCSN++, whose noise features are random frequencies, and whose filter is 1 3 3 1."""
    return small_network(
        "song",
        noise_embedding="fourier",
        noise_multiplier=2,
        encoder="residual",
        resample_filter=(1, 3, 3, 1),
    )


OWN = {name: lambda name=name: small_network(name) for name in ("unet", "song", "dhariwal")} | {
    "ncsn++": ncsnpp
}


@pytest.mark.parametrize("name", OWN)
def test_products_are_bfloat16_and_outputs_float32(name: str) -> None:
    """Predictions, features and gradients agree with those of float32 weights within rounding."""
    whole = OWN[name]()
    reduced = copy.deepcopy(whole)
    cast_weights(reduced, torch.bfloat16)
    given = inputs(whole)
    expected = gradients(whole, *given)
    with Dispatched() as operations:
        prediction = reduced(*given)
    assert prediction.dtype == torch.float32
    assert operations.types_of(*PRODUCTS) == {torch.bfloat16}
    assert operations.casts([*reduced.parameters()]) == 0
    found = gradients(reduced, *given)
    for value, wanted in zip(found[:2], expected[:2], strict=True):
        assert 0 < differ(value, wanted) < TOLERANCE
    together, wanted = (torch.cat([value.float().flatten() for value in all_]) for all_ in (found, expected))
    assert differ(together, wanted) < TOLERANCE


def test_vectors_are_predicted_in_float32_by_an_mlp_in_bfloat16() -> None:
    whole = small_mlp()
    reduced = copy.deepcopy(whole)
    cast_weights(reduced, torch.bfloat16)
    given = inputs(whole)
    with Dispatched() as operations:
        prediction = reduced(*given)
    assert prediction.dtype == torch.float32
    assert operations.types_of(*PRODUCTS) == {torch.bfloat16}
    assert 0 < differ(prediction, whole(*given)) < TOLERANCE


def test_frequencies_and_levels_stay_float32_and_exact() -> None:
    """A noise level of IDDPM beside one that bfloat16 would round it to is still told from it."""
    network = EDMNetwork(SongUNetConfig(**SIZES, width=16), IDDPMPrecond(steps=1000))
    levels = network.u.clone()
    cast_weights(network, torch.bfloat16)
    assert torch.equal(network.u, levels)
    assert {buffer.dtype for buffer in network.buffers()} == {torch.float32}
    level = levels[500:502]
    assert network.precond(level, network.levels).noise.tolist() == [499.0, 498.0]


@pytest.mark.parametrize("steps", [(80.0,), (80.0, 2.0)])
def test_a_generator_of_float32_noise_makes_float32_images(steps: tuple[float, ...]) -> None:
    generator = FewStepGenerator(small_network("unet"), *steps).requires_grad_(False)
    z = torch.randn(2, *generator.noise_shape, generator=torch.Generator().manual_seed(0))
    cond = Condition(torch.tensor([0, 3]))
    expected = generator(z, cond)
    cast_weights(generator, torch.bfloat16)
    found = generator(z, cond)
    assert found.dtype == torch.float32
    assert 0 < differ(found, expected) < TOLERANCE


@pytest.mark.parametrize("features", [torch.float32, torch.bfloat16])
def test_logits_of_heads_in_bfloat16_are_float32(features: torch.dtype) -> None:
    torch.manual_seed(0)
    heads = Discriminator("teacher", {"8": 4}, width=8)
    x = torch.randn(16, 4, 8, 8)
    expected = heads({"8": x})
    cast_weights(heads, torch.bfloat16)
    with Dispatched() as operations:
        found = heads({"8": x.to(features)})
    assert found.dtype == torch.float32
    assert operations.types_of("convolution") == {torch.bfloat16}
    assert differ(found, expected) < TOLERANCE


def test_the_channel_mean_of_bfloat16_features_is_not_rounded() -> None:
    features = torch.tensor([1.0, 1.0078125], dtype=torch.bfloat16).reshape(1, 2, 1, 1)
    assert ChannelMean(("8",))({"8": features}).item() == 1.00390625


@torch.no_grad()
def test_adapters_in_bfloat16_are_cast_in_no_pass(tmp_path: Path) -> None:
    teacher = Settings(path=str(UNETS["sdxl"](tmp_path / "sdxl"))).load()
    student = LoRA(rank=4).build(teacher, 80.0)
    for adapter in student.denoiser.adapters():
        adapter.data.copy_(0.1 * torch.randn(adapter.shape, generator=torch.Generator().manual_seed(0)))
    z, cond = noise(teacher), condition(teacher)
    expected = student(z, cond)
    cast_weights(student, torch.bfloat16)
    with Dispatched() as operations:
        found = student(z, cond)
        adapted = sum(name == "_to_copy" for name, _ in operations.calls)
    assert operations.casts([*student.parameters()]) == 0
    assert operations.types_of(*PRODUCTS) == {torch.bfloat16}
    assert found.dtype == torch.float32
    assert 0 < differ(found, expected) < TOLERANCE
    bare = FewStepGenerator(teacher, 80.0)
    with Dispatched() as operations:
        bare(z, cond)
    assert adapted == sum(name == "_to_copy" for name, _ in operations.calls)


def test_weights_in_bfloat16_are_not_cast_by_autocast(tmp_path: Path) -> None:
    teacher = Settings(path=str(UNETS["sdxl"](tmp_path / "sdxl")), dtype="bfloat16").load()
    products = [value for value in teacher.network.parameters() if value.ndim > 1]
    x_t, cond = noise(teacher), condition(teacher)
    with torch.autocast("cpu", torch.bfloat16), Dispatched() as operations:
        teacher(x_t, torch.tensor([200.0, 700.0]), cond)
    assert operations.casts(products) == 0


@pytest.mark.parametrize("name", ["unet", "song"])
def test_float16_by_autocast_agrees_with_float32(name: str) -> None:
    network = small_network(name)
    given = inputs(network)
    with torch.autocast("cpu", torch.float16), Dispatched() as operations:
        found = network(*given)
    assert found.dtype == torch.float32
    assert operations.types_of("convolution") == {torch.float16}
    assert 0 < differ(found, network(*given)) < 0.01


def test_a_network_that_normalises_its_weights_is_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"^precision: bf16-true holds weights in bfloat16, in which EDM2Network cannot compute; "
        r"expected bf16 or fp16$",
    ):
        check_reduced_weights(small_network("edm2"))
    check_reduced_weights(FewStepGenerator(small_network("unet"), 80.0))
