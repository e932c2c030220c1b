"""Updates of a small network by one process, by several, and by several that share its rows.

`python -m tests.helpers.updates_in_processes FOLDER COPIES`, started by torch.distributed.run, writes what
each process found into `FOLDER/INDEX.json`. The processes hold so many copies of sharded networks.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from distill.training.optimization.ema import EMA, average_of
from distill.training.optimization.masters import Masters
from distill.training.optimization.settings import OptimizerSettings
from distill.training.optimization.updater import Updater, expect_last_backward
from distill.training.parallel import buckets
from distill.training.parallel.buckets import GradientBuckets
from distill.training.parallel.processes import Processes
from distill.training.parallel.shards import local
from tests.helpers import eight_bit_kernels

STEPS, ROWS, MICRO_BATCHES = 3, 12, 3
WIDTH = 5
"""Rows of a weight: two processes hold three and two."""


class Tiny(nn.Module):
    """A network with an adapter and a parameter without dimensions, which are never sharded.

    Its last weight has one row, of which a second process holds none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, WIDTH)
        self.adapter = nn.Linear(3, WIDTH, bias=False)
        self.gain = nn.Parameter(torch.ones(()))
        self.outer = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer((self.inner(x) + self.adapter(x)).tanh() * self.gain)

    def plain(self) -> set[nn.Parameter]:
        return {self.adapter.weight, self.gain}


def build(dtype: torch.dtype) -> Tiny:
    torch.manual_seed(0)
    return Tiny().to(dtype)


def shard(network: Tiny, processes: Processes) -> None:
    """Shard a network, if the processes have a mesh."""
    if processes.mesh is not None:
        policy = MixedPrecisionPolicy(reduce_dtype=torch.promote_types(network.gain.dtype, torch.float32))
        fully_shard(network, mesh=processes.mesh, ignored_params=network.plain(), mp_policy=policy)


@dataclasses.dataclass
class Training:
    """A network with its average and its optimiser on this process."""

    processes: Processes
    network: Tiny
    average: EMA[Tiny]
    updater: Updater

    def differentiate(self, step: int, is_early: bool = True) -> None:
        """Accumulate the gradients of this process's part of the batch, in three micro-batches."""
        random = torch.Generator().manual_seed(step)
        x = torch.randn(ROWS, 3, generator=random, dtype=torch.float64).to(self.network.gain.dtype)
        chunks = x[self.processes.index :: self.processes.count].chunk(MICRO_BATCHES)
        for number, chunk in enumerate(chunks):
            if is_early and number == MICRO_BATCHES - 1:
                expect_last_backward([self.updater])
            (self.network(chunk).square().mean() / MICRO_BATCHES).backward()
            self.updater.accumulate()

    def update(self, step: int, is_early: bool = True) -> float:
        """Make one update, and return the norm of the gradient."""
        self.differentiate(step, is_early)
        norm = self.updater.update(step).item()
        self.average.update(self.updater.weights)
        return norm

    def weights(self) -> dict[str, list[Any]]:
        """Return the whole weights."""
        named = self.network.named_parameters()
        return {name: self.processes.whole(value).tolist() for name, value in named}

    def averages(self) -> dict[str, list[Any]]:
        named = self.average.average.named_parameters()
        return {name: self.processes.whole(value).tolist() for name, value in named}

    def held(self) -> list[Tensor]:
        """Return copies of the weights and states of this process."""
        states = self.updater.state_tensors().values()
        return [tensor.detach().clone() for tensor in (*self.updater.masters.parts, *states)]


def start(processes: Processes, dtype: torch.dtype = torch.float64, **settings: Any) -> Training:
    """Build a network and what trains it."""
    network = build(dtype)
    average = average_of(network)
    shard(network, processes)
    shard(average, processes)
    given = {"lr": 1e-2, "betas": (0.9, 0.99), **settings}
    updater = Updater("network", network, OptimizerSettings(**given), 100, processes)
    return Training(processes, network, EMA(network, 0.9, average), updater)


def train(processes: Processes, **settings: Any) -> dict[str, Any]:
    """Make updates, and return norms, weights and averages."""
    training = start(processes, **settings)
    norms = [training.update(step) for step in range(STEPS)]
    return {"norms": norms, "weights": training.weights(), "averages": training.averages()}


CLIPPED = {"clip_grad_norm": 0.3, "clip_grad_value": 0.1}
RUNS: dict[str, dict[str, Any]] = {
    "adam": {},
    "clipped": CLIPPED,
    "bfloat16": {"dtype": torch.bfloat16, **CLIPPED},
    "offloaded": {"offload": True, **CLIPPED},
    "adamw8bit": {"name": "adamw8bit", "dtype": torch.float32},
}
"""Settings of the runs that are compared with one process."""


def found_inf(processes: Processes, parameter: str) -> dict[str, Any]:
    """Make an update of which one part of the gradient of a parameter is not finite, on one process."""
    training = start(processes, **CLIPPED)
    training.update(0)
    before = training.held()
    training.differentiate(1, is_early=False)
    if processes.shard_index == 1:
        gradient = training.network.get_parameter(parameter).grad
        assert gradient is not None
        local(gradient)[0] = math.inf
    norm = training.updater.update(1).item()
    same = [torch.equal(old, new) for old, new in zip(before, training.held(), strict=True)]
    return {"is_finite": math.isfinite(norm), "is_unchanged": all(same)}


def continued(processes: Processes, **settings: Any) -> dict[str, Any]:
    """Continue a run from its state, and compare."""
    training, other = start(processes, **settings), start(processes, **settings)
    training.update(0)
    with torch.no_grad():
        pairs = zip(other.updater.masters.parts, training.updater.masters.parts, strict=True)
        for mine, theirs in pairs:
            mine.copy_(theirs)
    state = {name: tensor.clone() for name, tensor in training.updater.state_tensors().items()}
    other.updater.restore(state)
    norms = [each.update(1) for each in (training, other)]
    same = [torch.equal(old, new) for old, new in zip(training.held(), other.held(), strict=True)]
    return {"same_norm": norms[0] == norms[1], "is_same": all(same), "names": sorted(state)}


def state_kinds(processes: Processes, **settings: Any) -> dict[str, Any]:
    """Return how processes share each tensor of the state, and its shape here."""
    training = start(processes, **settings)
    training.update(0)
    names = {id(value): name for name, value in training.network.named_parameters()}
    return {
        name: [list(part.tensor.shape), names.get(id(part.rows_of)), part.is_bound]
        for name, part in training.updater.state_parts().items()
    }


class Recording(Processes):
    """Processes that note when they start sums of gradients."""

    events: list[str]

    @classmethod
    def of(cls, processes: Processes) -> Recording:
        fields = {field.name: getattr(processes, field.name) for field in dataclasses.fields(processes)}
        recording = cls(**fields)
        object.__setattr__(recording, "events", [])
        return recording

    def start_sum(self, tensor: Tensor) -> Any:
        self.events.append(f"sum of {tensor.numel()}")
        return super().start_sum(tensor)


def buckets_of(parameters: Sequence[Tensor], processes: Processes) -> GradientBuckets:
    """Return buckets of one parameter each."""
    given = dict(enumerate(parameters))
    return GradientBuckets(given, processes, Masters(parameters).move_gradients, bucket_bytes=1)


def overlap(processes: Processes) -> dict[str, Any]:
    """Note what happens in the last backward pass of three."""
    recording = Recording.of(processes)
    network = nn.Sequential(nn.Linear(2, 4, bias=False), nn.Linear(4, 3, bias=False))
    averaged = buckets_of(list(network.parameters()), recording)
    network[0].weight.register_hook(lambda given: recording.events.append("first layer"))
    for number in range(3):
        if number == 2:
            buckets.expect_last_backward([averaged])
        network(torch.ones(1, 2)).sum().backward()
        recording.events.append("end of backward")
    averaged.finish()
    return {"events": recording.events}


def uneven_order(processes: Processes) -> dict[str, Any]:
    """Average gradients of three weights, of which the second process lacks the last, whose bucket is first.

    The weights have one shape, so that sums in different orders would be mixed up without an error.
    """
    recording = Recording.of(processes)
    weights = [nn.Parameter(torch.zeros(4)) for _ in range(3)]
    averaged = buckets_of(weights, recording)
    scale = 1.0 + processes.index
    used = weights if processes.index == 0 else weights[:2]
    buckets.expect_last_backward([averaged])
    torch.stack([scale * 10**number * weight.sum() for number, weight in enumerate(used)]).sum().backward()
    recording.events.append("end of backward")
    found = averaged.finish()
    return {"events": recording.events, "averages": [found[index].tolist() for index in range(3)]}


def two_networks(processes: Processes) -> dict[str, Any]:
    """Average gradients of two networks that one backward pass trains; a process lacks one of the first."""
    recording = Recording.of(processes)
    first, second = ([nn.Parameter(torch.zeros(4)) for _ in range(2)] for _ in range(2))
    both = [buckets_of(first, recording), buckets_of(second, recording)]
    used = [*first, *second[: 2 - processes.index]]
    buckets.expect_last_backward(both)
    torch.stack([10.0**number * weight.sum() for number, weight in enumerate(used)]).sum().backward()
    found = [each.finish() for each in both]
    return {"averages": [[each[index][0].item() for index in range(2)] for each in found]}


def in_bfloat16(processes: Processes) -> dict[str, Any]:
    """Average gradients in bfloat16 of three micro-batches, whose sums bfloat16 cannot hold."""
    network = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    settings = OptimizerSettings(lr=1.0, betas=(0.0, 0.0), eps=1.0)
    updater = Updater("network", network, settings, 10, processes)
    for gradient in (1.0, 1 / 512, 1 / 512 + processes.index / 256):
        network.weight.grad = torch.full_like(network.weight, gradient)
        updater.accumulate()
    return {"norm": updater.update(0).item()}


def findings(processes: Processes, sharded: Processes) -> dict[str, Any]:
    """Return all that the tests check, by name."""
    kinds = {"plain": processes, "sharded": sharded}
    found: dict[str, Any] = {
        f"{kind} {name}": train(each, **settings)
        for kind, each in kinds.items()
        for name, settings in RUNS.items()
    }
    late = start(processes, **CLIPPED)
    found["late"] = [late.update(step, is_early=False) for step in range(STEPS)]
    for name in ("inner.bias", "adapter.weight"):
        found[f"infinite {name}"] = found_inf(sharded, name)
    for name in ("bfloat16", "adamw8bit"):
        found[f"continued {name}"] = continued(sharded, **RUNS[name])
        found[f"kinds {name}"] = state_kinds(sharded, **RUNS[name])
    checks: list[Callable[[Processes], dict[str, Any]]] = [overlap, uneven_order, two_networks, in_bfloat16]
    return found | {check.__name__: check(processes) for check in checks}


def run_in_processes(folder: Path, count: int = 2, copies: int = 1) -> list[dict[str, Any]]:
    """Start processes, which hold so many copies of sharded networks, and return what each found."""
    from tests.helpers.runs import ENVIRONMENT  # the processes do not need it, and it imports much

    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command = [sys.executable, *launcher, "-m", __name__, str(folder), str(copies)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"{index}.json").read_text()) for index in range(count)]


def main() -> None:
    distributed.init_process_group("gloo")
    index, count = distributed.get_rank(), distributed.get_world_size()
    group = distributed.new_group()
    assert isinstance(group, distributed.ProcessGroup)
    copies = int(sys.argv[2])
    if copies == 1:
        mesh = init_device_mesh("cpu", (count,), mesh_dim_names=("shard",))
    else:
        mesh = init_device_mesh("cpu", (copies, count // copies), mesh_dim_names=("replicate", "shard"))
    processes = Processes(torch.device("cpu"), index, count, overlapping=group)
    sharded = dataclasses.replace(processes, mesh=mesh)
    with pytest.MonkeyPatch.context() as monkeypatch:
        eight_bit_kernels.install(monkeypatch)
        found = findings(processes, sharded)
    (Path(sys.argv[1]) / f"{index}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
