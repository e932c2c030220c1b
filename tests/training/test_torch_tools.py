"""Torch's own tools cannot measure a step here, so a dry run has a meter and kernels of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from distill.training.dry_run.meta_kernels import MetaKernels
from distill.training.dry_run.meter import Meter

MemTracker = pytest.importorskip("torch.distributed._tools.mem_tracker").MemTracker


def network() -> nn.Module:
    """Return a network on the meta device."""
    with torch.device("meta"):
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU(), nn.Conv2d(8, 3, 1))


def images() -> Tensor:
    return torch.empty(4, 3, 16, 16, device="meta")


FAKE_CUDA = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
with FakeTensorMode():
    x, weight = torch.empty(2, 4, device="cuda"), torch.empty(4, 4, device="cuda")
    print(torch.nn.functional.linear(x, weight).device, flush=True)
    torch.nn.functional.linear(x, weight.requires_grad_())
"""


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this build of torch knows CUDA")
def test_fake_cuda_tensors_have_no_graph_where_torch_is_built_without_cuda() -> None:
    """Autograd asks the device for its stream, which ends the process before any backward pass."""
    done = subprocess.run([sys.executable, "-c", FAKE_CUDA], capture_output=True, text=True)
    assert done.stdout == "cuda:0\n"
    assert done.returncode != 0
    assert "PyTorch is not linked with support for cuda devices" in done.stderr


def test_fake_cpu_tensors_take_the_types_of_the_cpu_s_autocast() -> None:
    """The CPU leaves norms, softmax and sums in bfloat16; CUDA computes and holds them in float32."""

    def types(device: str) -> set[torch.dtype]:
        x = torch.empty(4, 8, 16, 16, dtype=torch.bfloat16, device=device)
        weight = torch.empty(8, device=device)
        return {F.group_norm(x, 2, weight, weight).dtype, x.softmax(1).dtype, x.sum().dtype}

    with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16):
        assert types("cpu") == {torch.bfloat16}
    with MetaKernels(autocast=torch.bfloat16):
        assert types("meta") == {torch.float32}


def test_the_memory_tracker_agrees_on_a_network_that_runs_once() -> None:
    weights = network()
    x = images()
    tracker = MemTracker()
    tracker.track_external(weights, x)
    before = sum(parameter.nbytes for parameter in weights.parameters()) + x.nbytes
    with tracker:
        weights(x).square().mean().backward()
    tracked = tracker.get_tracker_snapshot("peak")[torch.device("meta")]["Total"] - before
    weights.zero_grad()
    with Meter([*weights.parameters(), x]) as meter:
        weights(x).square().mean().backward()
    assert meter.peak == tracked


@pytest.mark.filterwarnings("ignore:global module forward hook")
def test_the_memory_tracker_refuses_a_frozen_network() -> None:
    """It hooks the gradient of every weight. Teachers have none, nor has what stands under adapters."""
    tracker = MemTracker()
    with (
        tracker,
        pytest.raises(RuntimeError, match="cannot register a hook on a tensor that doesn't require"),
    ):
        network().requires_grad_(False)(images())


def test_the_memory_tracker_refuses_a_network_that_runs_twice() -> None:
    """A step runs the fake score in its own update, on real images and in the generator update."""
    weights = network()
    with MemTracker():
        weights(images())
        with pytest.raises(NotImplementedError, match="multiple iterative calls"):
            weights(images())
