"""Run a checked configuration to its end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from distill.config.config_file import differences
from distill.config.errors import TrainingError, UserError, is_out_of_memory
from distill.networks.folder import EXPORT
from distill.publishing.trackers import check_installed
from distill.storage.unfinished import remove_unfinished
from distill.training.batches import check_split
from distill.training.checkpoints.space import check_space_for
from distill.training.device.kernels import (
    chosen_kernels,
    describe_kernels,
    device_name,
    nondeterministic_operation,
)
from distill.training.device.memory_shortage import describe_shortage
from distill.training.distillation.inputs import check_inputs
from distill.training.distillation.task import Distillation
from distill.training.dry_run.micro_batch import free_memory, largest_micro_batch
from distill.training.dry_run.step import images_at_once
from distill.training.logging import Clock, cut_lines, start_trackers
from distill.training.parallel.ending import ending_together, group_timeout, joining, leave
from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.folders import writing
from distill.training.parallel.launchers import check_launch, processes_here, warn_of_unused_tasks
from distill.training.parallel.processes import Processes
from distill.training.parallel.sampling import Monitor
from distill.training.parallel.watchdog import Progress
from distill.training.pretraining.autoencoder import AutoencoderTraining, build_autoencoder
from distill.training.pretraining.teacher import TeacherTraining, build_teacher
from distill.training.run_folder import (
    ComputedBy,
    check_run_folder,
    open_run_folder,
    other_processes,
    record_finish,
    record_run,
    recorded_micro_batch,
)
from distill.training.settings import DistillRun, RunConfig, TrainAutoencoderRun, TrainTeacherRun
from distill.training.settings.stop_condition import check_measured
from distill.training.task import Task
from distill.training.trainer import STATS, Trainer

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh


BuildMonitor = Callable[[RunConfig, Processes], Monitor | None]
"""Builds what measures a run's images, None if nothing can be measured. All processes call it."""


def launch(config: RunConfig, build_monitor: BuildMonitor | None = None) -> int:
    """Run a configuration, from its newest checkpoint if it has one, and return the exit code.

    Bad input is refused before anything is written.
    """
    with joining(config):
        accelerator = build_accelerator(config)
        processes = processes_of(accelerator, config)
    with ending_together(processes, config) as progress, chosen_kernels(config, processes.device):
        check_agreement(config, processes)
        if check_run_folder(config, processes):
            say_finished(config, processes)
            code = 0
        else:
            if processes.is_main:
                print(describe_processes(config, processes), flush=True)
                warn_of_unused_tasks()
            check_measured(config.stop_when, has_monitor=config.monitor_every is not None)
            check_before_loading(config, processes)
            monitor = None if build_monitor is None else build_monitor(config, processes)
            check_measured(config.stop_when, has_monitor=monitor is not None)
            code = _run(config, processes, monitor, accelerator, progress)
    if processes.count > 1:
        leave(code)
    return code


def _run(
    config: RunConfig,
    processes: Processes,
    monitor: Monitor | None,
    accelerator: Accelerator,
    progress: Progress,
) -> int:
    size, said = choose_micro_batch(config, processes)
    resolved = config.model_copy(update={"micro_batch_size": size})
    clock = Clock(processes.device)
    task = build_task(resolved, processes, clock)
    trainer = Trainer(resolved, task, processes, clock, monitor, accelerator, progress)
    check_space_for(config, task, processes)
    checkpoint = open_run_folder(config, processes)
    processes.wait()  # every process has read the folder before one writes to it
    if checkpoint is not None:
        trainer.restore(checkpoint)
    if processes.is_main:
        devices = computed_by(resolved, processes)
        with writing(config.run_dir):
            remove_unfinished(config.run_dir)
            cut_lines(config.run_dir / STATS, trainer.step)
            moved = other_processes(config.run_dir, devices) if checkpoint is not None else None
            record_run(config, devices)
        if moved is not None:
            print(moved, flush=True)
        if processes.device.type == "cuda":
            print(describe_kernels(config, processes.device), *filter(None, [said]), sep="\n", flush=True)
    if config.trackers:
        name = config.tracker_name or config.run_dir.resolve().name
        settings = config.model_dump(mode="json")
        start_trackers(accelerator, config.tracker_project, name, settings, trainer.step)
    try:
        code = trainer.run()
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            at_once = images_at_once(resolved, processes.count)
            raise TrainingError(describe_shortage(config, task, processes.device, at_once)) from error
        operation = nondeterministic_operation(error)
        if operation is None:
            raise
        raise TrainingError(
            f"deterministic: {operation} adds in a changing order on {processes.device}; expected false"
        ) from error
    if code == 0 and processes.is_main:
        with writing(config.run_dir):
            record_finish(config)
    return code


def say_finished(config: RunConfig, processes: Processes) -> None:
    """Say in a line that a run has nothing more to do."""
    if processes.is_main:
        print(
            f"run_dir: {config.run_dir} finished its {config.steps} steps before; nothing to do, the network "
            f"is in {config.run_dir / EXPORT} (more --steps continue it)",
            flush=True,
        )


def check_before_loading(config: RunConfig, processes: Processes) -> None:
    """Refuse what files and settings tell to be wrong, before weights are read and images are measured."""
    check_split(config.batch_size, processes.count)
    with raised_by_all(processes):
        if isinstance(config, DistillRun):
            check_inputs(config)
        elif isinstance(config, TrainTeacherRun):
            build_teacher(config, config.data.load("train"), on_meta=True)
        else:
            build_autoencoder(config, config.data.load("train"), on_meta=True)


def build_task(config: RunConfig, processes: Processes, clock: Clock) -> Task:
    """Build the networks of a run and everything that trains them."""
    if isinstance(config, TrainTeacherRun):
        return TeacherTraining(config, processes, clock)
    if isinstance(config, TrainAutoencoderRun):
        return AutoencoderTraining(config, processes, clock)
    return Distillation(config, processes, clock)


def check_agreement(config: RunConfig, processes: Processes) -> None:
    """Refuse processes that were given other settings than the first, as on machines with other files."""
    here = config.model_dump(mode="json")
    first = processes.main_object(here)
    with raised_by_all(processes):
        for key, there, ours in differences(first, here):
            raise UserError(
                f"{key}: is {ours!r} on process {processes.index} of {processes.count} and {there!r} on the "
                "first; expected the same command and files on all machines"
            )


def choose_micro_batch(config: RunConfig, processes: Processes) -> tuple[int | None, str | None]:
    """Return the micro-batch as a number, or None for the whole batch, and what to say of one from `auto`.

    A run that continues on the same devices keeps its micro-batch.
    """
    import torch

    if config.micro_batch_size != "auto":
        return config.micro_batch_size, None
    device, count = processes.device, processes.count
    recorded = recorded_micro_batch(config.run_dir, device_name(device), count)
    memory = free_memory(device)
    # Processes of one run must agree: the fullest device decides, and a record counts if all have it.
    mine = torch.tensor([[recorded or 0, memory or 0]], device=device)
    kept, memory = processes.gather(mine).amin(0).tolist()
    if kept:
        return kept, f"micro_batch_size: auto keeps the {kept} images with which the run began"
    if not memory:
        return None, None
    found = largest_micro_batch(config, count, memory, processes.nodes)
    return found.size, str(found)


def describe_processes(config: RunConfig, processes: Processes) -> str:
    """Say in one line how many processes train, on what, in which precision, and what each holds."""
    parts = ["1 process"]
    if processes.count > 1:
        parts = [f"{processes.count} processes on {processes.nodes} node{'s' * (processes.nodes > 1)}"]
    parts += [device_name(processes.device), config.precision]
    if processes.count > 1:
        sharding = f"sharding {config.sharding.strategy}"
        if config.sharding.strategy == "hybrid":
            copies = processes.count // processes.shards
            are = f"{copies} copies" if copies > 1 else "1 copy"
            sharding += f" ({are} over {processes.shards} processes each)"
        parts.append(sharding)
    return ", ".join(parts)


def computed_by(config: RunConfig, processes: Processes) -> ComputedBy:
    """Return what meta.json says of the devices and what they compute."""
    return {
        "device": device_name(processes.device),
        "processes": processes.count,
        "nodes": processes.nodes,
        "sharding": config.sharding.strategy,
        "shards": processes.shards,
        "precision": config.precision,
        "tf32": config.tf32 and processes.device.type == "cuda",
        "compile": config.compile,
        "deterministic": config.deterministic or processes.device.type == "cpu",
        "micro_batch_size": images_at_once(config, processes.count),
    }


def build_accelerator(config: RunConfig) -> Accelerator:
    """Set up accelerate's process group, device and trackers."""
    import torch

    check_launch(config)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda is not available; expected auto or cpu")
    check_installed(config.trackers, "trackers")
    return Accelerator(
        cpu=config.device == "cpu" or not torch.cuda.is_available(),
        mixed_precision="no",  # `device.precision.autocast` does it
        log_with=list(config.trackers) or None,
        project_dir=str(config.run_dir),
        kwargs_handlers=[InitProcessGroupKwargs(backend=None, timeout=group_timeout(config.process_timeout))],
    )


def processes_of(accelerator: Accelerator, config: RunConfig) -> Processes:
    """Return the processes that a launcher started, with the mesh over which networks are sharded."""
    sharding = config.sharding
    alone = Processes(accelerator.device, accelerator.process_index, accelerator.num_processes)
    if alone.count == 1:
        if sharding.is_on:
            raise UserError(
                f"sharding.strategy: is {sharding.strategy}; expected none for one process, "
                "or several, started by torchrun"
            )
        return alone
    here = alone.gather_objects(processes_here())
    nodes = round(sum(1 / count for count in here))
    mesh = arrange(config, alone, here, nodes) if sharding.is_on else None
    return dataclasses.replace(alone, nodes=nodes, mesh=mesh, overlapping=_overlapping_group(config))


def arrange(config: RunConfig, processes: Processes, here: Sequence[int], nodes: int) -> DeviceMesh:
    """Arrange the processes by copy and shard; `here` are the numbers of processes on each one's machine."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.distributed_c10d import _set_pg_timeout

    sharding = config.sharding
    if sharding.strategy == "hybrid" and sharding.group_size is None:
        if len(set(here)) > 1:
            raise UserError(
                f"sharding.group_size: is null, but machines have {min(here)} to {max(here)} processes; "
                "expected a number of processes that hold one copy"
            )
        if here[0] == 1:
            raise UserError(
                "sharding.strategy: is hybrid with one process on each machine; expected full, "
                "or sharding.group_size"
            )
    try:
        copies, shards = sharding.sizes(processes.count, nodes)
    except ValueError as error:
        raise UserError(f"sharding.{error}") from error
    device = processes.device.type
    if copies == 1:
        mesh = init_device_mesh(device, (shards,), mesh_dim_names=("shard",))
    else:
        mesh = init_device_mesh(device, (copies, shards), mesh_dim_names=("replicate", "shard"))
    for dimension in range(mesh.ndim):  # torch gives new groups the default of their backend
        _set_pg_timeout(group_timeout(config.process_timeout), mesh.get_group(dimension))
    return mesh


def _overlapping_group(config: RunConfig) -> ProcessGroup:
    """Make a group of all processes, for sums that overlap with other communication."""
    from torch import distributed

    group = distributed.new_group(timeout=group_timeout(config.process_timeout))
    assert isinstance(group, distributed.ProcessGroup)  # a process outside would get a number
    return group


def build_processes(config: RunConfig) -> Processes:
    """Set up the processes of a run, without trackers."""
    return processes_of(build_accelerator(config), config)
