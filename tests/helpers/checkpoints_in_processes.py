"""Checkpoints that several processes write and read.

`python -m tests.helpers.checkpoints_in_processes FOLDER ACTION...`, started by torch.distributed.run, does
the actions and writes what each process found into `FOLDER/found-INDEX.json`.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from distill.config.errors import TrainingError, UserError
from distill.networks.folder import checkpoints
from distill.storage.tensors import file_sha256, save_tensors
from distill.training.checkpoints import damage, load_checkpoint, save_checkpoint, saving
from distill.training.checkpoints.damage import newest_whole
from distill.training.optimization.ema import EMA, average_of
from distill.training.optimization.settings import OptimizerSettings
from distill.training.optimization.updater import Updater
from distill.training.parallel.filling import whole_state
from distill.training.parallel.processes import Processes
from distill.training.parallel.shards import local, row_range
from distill.training.run_folder import check_shared
from tests.helpers import eight_bit_kernels
from tests.helpers.runs import ENVIRONMENT

EIGHT_BIT = "eight"
"""Name of the network whose optimiser has states of 8 bits."""


class Tiny(nn.Module):
    """A network with weights of three rows and of one, a buffer, and parameters that are never sharded."""

    count: Tensor

    def __init__(self, seed: int, width: int = 3) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.inner = nn.Linear(4, width)
        self.gain = nn.Parameter(torch.rand(()))
        self.adapter = nn.Linear(4, width, bias=False)
        self.outer = nn.Linear(width, 1)
        self.register_buffer("count", torch.tensor(seed))

    def forward(self, x: Tensor) -> Tensor:
        return self.outer((self.inner(x) + self.adapter(x)).tanh() * self.gain)

    def plain(self) -> set[nn.Parameter]:
        return {self.gain, *self.adapter.parameters()}


@dataclasses.dataclass
class State:
    """Networks by name with their optimisers, and the average of the first."""

    modules: dict[str, nn.Module]
    updaters: dict[str, Updater]
    ema: EMA[nn.Module]
    processes: Processes

    def train(self, steps: int) -> None:
        """Make updates that are the same for every number of processes."""
        generator = torch.Generator().manual_seed(0)
        for step in range(steps):
            x = torch.randn(8, 4, generator=generator)
            for name, updater in self.updaters.items():
                network = self.modules[name]
                dtype = next(network.parameters()).dtype
                network(x.to(dtype)).square().mean().backward()
                updater.accumulate()
                updater.update(step)
            self.ema.update(self.updaters["net"].weights)

    def save(self, run_dir: Path, step: int) -> Path:
        """Save a checkpoint, and keep the two newest."""

        def export(folder: Path) -> None:
            state = whole_state(self.ema.average, self.processes)
            if state is not None:
                save_tensors(folder / "model.safetensors", state)

        progress = {"seconds": float(self.processes.index)}
        return save_checkpoint(
            run_dir, step, self.modules, self.updaters, progress, export, 2, self.processes
        )

    def load(self, path: Path) -> dict[str, Any]:
        modules = {**self.modules, "model": self.ema.average}
        return load_checkpoint(path, modules, self.updaters, self.processes)

    def tensors(self) -> dict[str, Tensor]:
        """Return this process's part of everything, by name."""
        modules = {**self.modules, "model": self.ema.average}
        parts = {
            f"{name}:{key}": local(value).clone()
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        }
        for name, updater in self.updaters.items():
            parts |= {f"{name}.optimizer:{key}": value for key, value in updater.state_tensors().items()}
        return parts


def build(processes: Processes, seed: int, eight_bit: bool = False) -> State:
    """Build networks in float32 and bfloat16, one that is not sharded, and perhaps one with 8-bit states."""
    networks: dict[str, nn.Module] = {"net": Tiny(seed), "half": Tiny(seed + 1).bfloat16()}
    if eight_bit:
        networks[EIGHT_BIT] = Tiny(seed + 2, width=2048)
    average = average_of(networks["net"])
    for network in (*networks.values(), average):
        if processes.mesh is not None:
            assert isinstance(network, Tiny)
            fully_shard(network, mesh=processes.mesh, ignored_params=network.plain())
    updaters = {
        name: Updater(
            name,
            network,
            OptimizerSettings(lr=0.1, name="adamw8bit" if name == EIGHT_BIT else "adam"),
            10,
            processes,
        )
        for name, network in networks.items()
    }
    ema = EMA(networks["net"], 0.9, average)
    return State({**networks, "small": nn.BatchNorm1d(3)}, updaters, ema, processes)


def continue_exactly(folder: Path, processes: Processes) -> dict[str, Any]:
    """Save to `first`, load into other networks, and train on beside the ones that were saved."""
    state = build(processes, 0, eight_bit=True)
    state.train(2)
    path = state.save(folder / "first", 2)
    other = build(processes, 5, eight_bit=True)
    other.train(1)
    progress = other.load(path)
    other.ema.updates = state.ema.updates  # the trainer does it
    loaded = different(state.tensors(), other.tensors())
    for each in (state, other):
        each.train(2)
    expected = row_range(3, processes.shard_index, processes.shards)
    return {
        "progress": progress,
        "tensors": len(state.tensors()),
        "loaded": loaded,
        "continued": different(state.tensors(), other.tensors()),
        "rows": [len(local(state.modules["net"].inner.weight)), len(expected)],  # type: ignore[union-attr, arg-type]
    }


def different(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Return the names of tensors that are not equal to the bit."""
    assert one.keys() == other.keys()
    return [name for name, value in one.items() if not torch.equal(value, other[name])]


def copy_on(folder: Path, processes: Processes, source: str, target: str) -> dict[str, Any]:
    """Load a checkpoint and save it again, perhaps by another number of processes."""
    state = build(processes, 7)
    progress = state.load(checkpoints(folder / source)[-1])
    state.save(folder / target, progress["step"])
    return {"mesh": None if processes.mesh is None else list(processes.mesh.shape)}


def refuse_eight_bits(folder: Path, processes: Processes) -> dict[str, Any]:
    """Load 8-bit states of another number of processes."""
    state = build(processes, 7, eight_bit=True)
    try:
        state.load(checkpoints(folder / "first")[-1])
    except UserError as error:
        return {"refusal": str(error)}
    return {}


def fill_the_disk(folder: Path, processes: Processes) -> dict[str, Any]:
    """Save while the second process has no space left."""
    state = build(processes, 0)
    state.train(1)
    state.save(folder / "full", 1)
    write = saving.save_shard

    def fail(path: Path, *arguments: Any) -> None:
        if processes.index == 1 and path.name.startswith("half.optimizer"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, *arguments)

    saving.save_shard = fail  # type: ignore[assignment]
    try:
        state.save(folder / "full", 2)
    except TrainingError as error:
        return {"error": str(error)}
    finally:
        saving.save_shard = write
    return {}


def find_damage(folder: Path, processes: Processes) -> dict[str, Any]:
    """Look for a whole checkpoint in `damaged`, and count the files that this process reads for it."""
    read: list[str] = []

    def note(path: Path) -> str:
        read.append(f"{path.parent.name}/{path.name}")
        return file_sha256(path)

    damage.file_sha256 = note
    found, others = newest_whole(folder / "damaged", processes)
    damage.file_sha256 = file_sha256
    return {
        "found": None if found is None else found.name,
        "others": [[each.folder.name, each.file, each.state] for each in others],
        "read": read,
    }


def compare_folders(folder: Path, processes: Processes) -> dict[str, Any]:
    """Check a folder that is the same for all processes, and one that is not."""
    own = folder / f"of-{processes.index}"
    own.mkdir()
    check_shared(folder, processes)
    try:
        check_shared(own, processes)
    except UserError as error:
        return {"refusal": str(error), "left": [path.name for path in own.iterdir()]}
    return {}


def kill_one(folder: Path, processes: Processes, victim: str) -> dict[str, Any]:
    """Save to `killed`, and once more while SIGKILL ends a process, after another has written its files."""
    run_dir = folder / "killed"
    state = build(processes, 0)
    state.train(1)
    state.save(run_dir, len(checkpoints(run_dir)) + 1)

    class Killer(nn.Module):
        def state_dict(self, *arguments: Any, **named: Any) -> Any:
            if processes.index == int(victim):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().state_dict(*arguments, **named)

    state.modules["killer"] = Killer()
    state.save(run_dir, 99)
    return {}


ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    action.__name__: action
    for action in (
        continue_exactly,
        copy_on,
        refuse_eight_bits,
        fill_the_disk,
        find_damage,
        compare_folders,
        kill_one,
    )
}


def start(folder: Path, *actions: str, count: int = 2) -> subprocess.CompletedProcess[str]:
    """Let several processes do actions, such as `copy_on:first:second`."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)]
    command = [sys.executable, *launcher, "-m", __name__, str(folder), *actions]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


def run_in_processes(folder: Path, *actions: str, count: int = 2) -> list[dict[str, Any]]:
    """Let several processes do actions, and return for each process what it found by action."""
    done = start(folder, *actions, count=count)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"found-{index}.json").read_text()) for index in range(count)]


def saved_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint by `file:name` with nothing but safetensors."""
    pieces: dict[str, list[Tensor]] = {}
    rows: dict[str, list[int]] = {}
    for file in sorted(path.glob("*.safetensors")):
        name = file.name.partition(".shard-")[0].removesuffix(".safetensors")
        with safe_open(file, "pt") as opened:
            places = json.loads((opened.metadata() or {}).get("rows", "{}"))
            for key in opened.keys():  # noqa: SIM118
                tensor = opened.get_tensor(key).clone()
                pieces.setdefault(f"{name}:{key}", []).append(tensor)
                if key in places:
                    rows.setdefault(f"{name}:{key}", []).append(places[key][0])
                    assert places[key][0] + len(tensor) <= places[key][1]
    assert all(starts == sorted(starts) for starts in rows.values())
    return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in pieces.items()}


def main() -> None:
    distributed.init_process_group("gloo")
    index, count = distributed.get_rank(), distributed.get_world_size()
    folder, found = Path(sys.argv[1]), {}
    full = init_device_mesh("cpu", (count,), mesh_dim_names=("shard",))
    processes = Processes(torch.device("cpu"), index, count, mesh=full)
    with pytest.MonkeyPatch.context() as monkeypatch:
        eight_bit_kernels.install(monkeypatch)
        for action in sys.argv[2:]:
            name, *arguments = action.split(":")
            if name.startswith("hybrid_"):
                mesh = init_device_mesh("cpu", (2, count // 2), mesh_dim_names=("replicate", "shard"))
                hybrid = dataclasses.replace(processes, mesh=mesh)
                found[action] = ACTIONS[name.removeprefix("hybrid_")](folder, hybrid, *arguments)
            else:
                found[action] = ACTIONS[name](folder, processes, *arguments)
    (folder / f"found-{index}.json").write_text(json.dumps(found))
    distributed.barrier()
    # Meshes keep gloo's threads, which now and then abort Python as it ends.
    os._exit(0)


if __name__ == "__main__":
    main()
