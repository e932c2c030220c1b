"""Describe a lack of memory in one line: what the run held, by part, and which setting to lower."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from distill.training.parallel.shards import local
from distill.training.settings import DistillRun, RunConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill.training.task import Task

GIB = 1 << 30


def describe_shortage(config: RunConfig, task: Task, device: torch.device, at_once: int) -> str:
    """Return the line for a run whose device, which computes so many images at once, has no more memory."""
    held = held_parts(task, device)
    total = _peak_allocated(device)
    if total is not None:
        held["activations and the rest"] = max(0, total - sum(held.values()))
    parts = ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in held.items())
    advice = ", or ".join(remedies(config, at_once))
    return f"out of memory on {device}: {parts} were held; {advice}; the last checkpoint is untouched"


def held_parts(task: Task, device: torch.device) -> dict[str, int]:
    """Return the bytes of weights, gradients, optimiser states and the average; shared memory counts once.

    Float32 copies of trained weights count as the optimisers'. What they keep in the host's memory does not
    count.
    """
    updaters = task.updaters.values()
    trained = [parameter for updater in updaters for parameter in updater.parameters]
    networks = [*task.modules.values(), *task.frozen_networks()]
    weights = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    states = [value for updater in updaters for value in updater.state_tensors().values()]
    seen: set[int] = set()
    return {
        "weights": _size(weights, seen),
        "gradients": _size((parameter.grad for parameter in trained if parameter.grad is not None), seen),
        "optimisers": _size((value for value in states if value.device.type == device.type), seen),
        "average": _size((weight for average in task.ema.averages for weight in average.parameters()), seen),
    }


def remedies(config: RunConfig, at_once: int) -> list[str]:
    """Return the settings that save memory, the one that changes nothing else first.

    `at_once` is the number of images that one process computes at once.
    """
    found = []
    if at_once > 1:
        by = ", which auto took" if config.micro_batch_size == "auto" else ""
        found.append(f"lower micro_batch_size to {at_once // 2} (now {at_once}{by})")
    if not config.activation_checkpointing:
        found.append("set activation_checkpointing: true")
    if config.precision == "fp32":
        found.append("set precision: bf16")
    if isinstance(config, DistillRun):
        found += _penalty_remedies(config) + _teacher_remedies(config)
    return [*found, *_optimizer_remedies(config)] or ["use a device with more memory"]


def _penalty_remedies(config: DistillRun) -> list[str]:
    r1 = config.discriminator.r1 if config.discriminator else None
    if r1 is None or r1.approximate or r1.at != "image":
        return []
    recompute = [] if r1.recompute else ["set discriminator.r1.recompute: true"]
    return [*recompute, "set discriminator.r1.approximate: true"]


def _teacher_remedies(config: DistillRun) -> list[str]:
    if config.teacher.name != "diffusers":
        return []
    if config.generator.network.name == "copy":
        return ["let generator.network and fake.network be {name: lora}"]
    return ["set precision: bf16-true"] if config.precision in ("bf16", "fp16") else []


def _optimizer_remedies(config: RunConfig) -> list[str]:
    """Return what shrinks the optimiser's state of the network with the most of it, once and no further."""
    if isinstance(config, DistillRun):
        key, settings = "generator.optimizer", config.generator.optimizer
    else:
        key, settings = "optimizer", config.optimizer
    if settings.is_8bit or settings.offload:  # one does not go with the other
        return []
    return [f"set {key}.name: {settings.name}8bit", f"set {key}.offload: true"]


def _size(tensors: Iterable[Tensor], seen: set[int]) -> int:
    """Return the bytes of storages that are not in `seen`, and add them to it."""
    total = 0
    for tensor in tensors:
        storage = local(tensor).untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total


def _peak_allocated(device: torch.device) -> int | None:
    import torch

    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
