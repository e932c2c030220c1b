"""Compiled blocks give the same numbers, forward and backward, and leave everything else as it was."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor
from torch._dynamo.utils import counters

from distill.diffusion.schedules import Flow
from distill.networks.computation.activation_checkpointing import CheckpointedBlock, checkpoint_activations
from distill.networks.computation.compilation import compile_blocks, repeated_blocks
from distill.students.lora import LoRASizes
from distill.training.optimization.ema import EMA
from distill.types import Denoiser
from tests.helpers.diffusers_inputs import PipelineFolders, condition, noise, transformer
from tests.helpers.small_networks import assert_near, gradients, inputs, small_mlp, small_network

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
"""torch.compile's own look at its inputs."""
NEWER = ("lumina2", "z-image", "aura-flow", "hunyuan-dit", "cogview4", "kandinsky5")
GRAPHS_ONLY = "aot_eager"
"""Backend that traces forward and backward graphs, and runs them without generating code."""


@pytest.fixture(autouse=True)
def _forget_graphs(unchecked: None) -> Iterator[None]:
    """Begin without graphs."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolders:
    return PipelineFolders(tmp_path_factory.mktemp("pipelines"))


def adapted(folders: PipelineFolders, family: str) -> tuple[Denoiser, tuple[Any, ...]]:
    """Return a tiny network of diffusers with disturbed adapters, and its inputs."""
    teacher = transformer(folders, family)
    network = LoRASizes(rank=2).adapt(teacher, "generator.network")
    torch.manual_seed(0)
    for adapter in network.adapters():
        adapter.data.add_(0.1 * torch.randn_like(adapter))
    t = torch.tensor([0.2, 0.7]) * (1.0 if isinstance(teacher.schedule, Flow) else 1000.0)
    return network, (noise(teacher), t, condition(teacher))


def slow(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["unet", slow("song"), slow("dhariwal"), slow("edm2")])
def test_graphs_of_own_blocks_give_the_same_numbers(name: str) -> None:
    network = small_network(name).eval()
    given = inputs(network)
    expected = gradients(network, *given)
    assert compile_blocks(network, GRAPHS_ONLY) >= 7
    assert_near(gradients(network, *given), expected)
    assert counters["stats"]["unique_graphs"] >= 6
    assert not counters["graph_break"]
    checkpoint_activations(network)
    assert_near(gradients(network, *given), expected)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sdxl", "ddpm", "dit", "sd3", *NEWER])
def test_graphs_of_blocks_with_adapters_give_the_same_numbers(folders: PipelineFolders, family: str) -> None:
    """The features are read by hooks, also of a block that is compiled."""
    network, given = adapted(folders, family)
    depths = tuple(network.depth_channels)[1:2]
    expected, features = gradients(network, *given, depths=depths), network.features(*given, depths)
    compile_blocks(network, GRAPHS_ONLY)
    assert_near(gradients(network, *given, depths=depths), expected)
    assert_near([network.features(*given, depths)[depths[0]]], [features[depths[0]]])
    assert counters["stats"]["unique_graphs"] > 0
    checkpoint_activations(network)
    assert_near(gradients(network, *given, depths=depths), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet", "song", "edm2", "sdxl"])
def test_generated_code_gives_the_same_numbers(folders: PipelineFolders, name: str) -> None:
    if name == "sdxl":
        network, given = adapted(folders, name)
    else:
        network = small_network(name).eval()
        given = inputs(network)
    expected = gradients(network, *given)
    compile_blocks(network)
    assert_near(gradients(network, *given), expected)
    assert counters["stats"]["unique_graphs"] > 0


def test_an_mlp_has_blocks_too() -> None:
    network = small_mlp()
    given = inputs(network)
    expected = gradients(network, *given)
    assert compile_blocks(network, GRAPHS_ONLY) == 3
    assert_near(gradients(network, *given), expected)
    assert counters["stats"]["unique_graphs"] == 1  # its blocks share one


def test_equal_calls_compile_nothing_anew() -> None:
    """A mode, a frozen network and twice the batch have graphs of their own, once each."""
    network = small_mlp()
    compile_blocks(network, GRAPHS_ONLY)

    def calls() -> None:
        gradients(network, *inputs(network))
        network.requires_grad_(False)
        network(*inputs(network, 4))
        with torch.no_grad():
            network(*inputs(network))
        network.requires_grad_(True)

    calls()
    assert counters["stats"]["unique_graphs"] == 3
    calls()
    assert counters["stats"]["unique_graphs"] == 3


def test_a_block_whose_output_a_hook_reads_runs_uncompiled() -> None:
    network = small_mlp()
    given = inputs(network)
    expected = network(*given)
    compile_blocks(network, GRAPHS_ONLY)
    seen: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda module, given, output: seen.append(output))
        for block in network.blocks
    ]
    assert_near([network(*given)], [expected])
    assert len(seen) == 3
    assert counters["stats"]["unique_graphs"] == 0
    for handle in handles:
        handle.remove()
    assert_near([network(*given)], [expected])
    assert len(seen) == 3
    assert counters["stats"]["unique_graphs"] == 1


def test_weights_keep_their_names_and_copies_run_uncompiled() -> None:
    network = small_network("unet")
    names = list(network.state_dict())
    compile_blocks(network, GRAPHS_ONLY)
    given = inputs(network)
    expected = network(*given)
    graphs = counters["stats"]["unique_graphs"]
    assert list(network.state_dict()) == names
    bottleneck: CheckpointedBlock = pickle.loads(pickle.dumps(network.bottleneck))
    copies: list[Any] = [copy.deepcopy(network), EMA(network, 0.9).average]
    for copied in copies:
        assert_near([copied(*given)], [expected])
    assert counters["stats"]["unique_graphs"] == graphs
    assert all(block._compiled_call_impl is None for one in copies for block in repeated_blocks(one))
    assert bottleneck._compiled_call_impl is None


@pytest.mark.parametrize("is_compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_edm2_keeps_its_weights_at_unit_magnitude_in_training(is_compiled: bool) -> None:
    network = small_network("edm2").train()
    if is_compiled:
        compile_blocks(network, GRAPHS_ONLY)
    gradients(network, *inputs(network))
    weights = [value for name, value in network.unet.named_parameters() if name.endswith(".weight")]
    for weight in weights:
        size = weight.detach().square().flatten(1).mean(1).sqrt()
        torch.testing.assert_close(size, torch.ones_like(size), rtol=0, atol=1e-3)
