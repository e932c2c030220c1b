"""Measure a simulated step: the bytes that a run holds and adds, and its floating-point operations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from distill.networks.computation.activation_checkpointing import checkpoint_activations, checkpointable
from distill.training.device.precision import autocast_type
from distill.training.dry_run.meta_kernels import recompute_on_meta
from distill.training.dry_run.meter import Meter
from distill.training.dry_run.passes import Passes, Traffic
from distill.training.dry_run.plan import BYTES_OF_FLOAT, elements_held
from distill.training.dry_run.step import Action, SimulatedStep, images_at_once
from distill.training.optimization.eight_bit import BLOCK, SMALLEST
from distill.training.optimization.masters import is_reduced
from distill.training.optimization.settings import OptimizerSettings
from distill.training.settings import RunConfig

CHECKPOINTED = ", activation checkpointing"
OPTIMIZER_UPDATE = "an optimiser's update"
Report = Callable[[str], None]
"""Takes the name of what is measured next."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a step takes on one process: memory in bytes, operations, and bytes that are sent.

    Floating-point operations, forward and backward, are those of one micro-batch.
    """

    held: dict[str, int]
    """Bytes that the run holds throughout, by what holds them."""
    added: dict[str, int]
    """Bytes that each action adds at its peak."""
    flops: int
    traffic: Traffic = dataclasses.field(default_factory=Traffic)
    """Bytes that one process sends in a step of all its micro-batches."""

    @property
    def peak(self) -> int:
        """Bytes that the run holds at most."""
        return sum(self.held.values()) + max(self.added.values())


def measure_both(
    name: str, step: SimulatedStep, config: RunConfig, report: Report = lambda stage: None
) -> dict[str, Cost]:
    """Return the costs without and with activation checkpointing; only the run's own if it is impossible."""
    report(f"{name}: outside the step")
    outside = measure(step, step.outside_the_step)
    costs = {}
    is_possible = any(list(checkpointable(model)) for model in step.models)
    for is_on in (False, True) if is_possible else (config.activation_checkpointing,):
        report(f"{name}{CHECKPOINTED * is_on}")
        costs[name + CHECKPOINTED * is_on] = _measure_step(step, config, outside, is_on)
    return costs


def measure_own(step: SimulatedStep, config: RunConfig) -> Cost:
    """Return the cost with activation checkpointing as the run has it."""
    outside = measure(step, step.outside_the_step)
    return _measure_step(step, config, outside, config.activation_checkpointing)


def _measure_step(step: SimulatedStep, config: RunConfig, outside: Cost, is_checkpointed: bool) -> Cost:
    how = recompute_on_meta(autocast_type(config.precision)) if is_checkpointed else None
    for model in step.models:
        checkpoint_activations(model, how)
    cost = measure(step, step.updates)
    flops, traffic = cost.flops, cost.traffic
    if step.student_pass is not None and step.skipped_passes:
        flops -= round(step.skipped_passes * measure_flops(step.student_pass))
        skipped = measure_traffic(step, step.student_pass)
        traffic = traffic.plus(skipped, -step.skipped_passes * step.micro_batches)
    held = Held(step)
    widened = max((widened_bytes(network, held) for network in step.trained), default=0)
    if widened:
        cost.added[OPTIMIZER_UPDATE] = widened
    # The step was measured on one micro-batch, and the run holds the whole batch.
    batch = cost.held["batch"] * config.batch_size // images_at_once(config)
    return Cost({**cost.held, "batch": batch}, cost.added | outside.added, flops, traffic)


class Held:
    """Counts the elements that one process holds of each parameter of a step's networks."""

    def __init__(self, step: SimulatedStep) -> None:
        self._shards = step.plan.shards
        self._shared = {parameter for network in step.sharded for parameter in network.parameters}

    def __call__(self, parameter: nn.Parameter) -> int:
        """Return the number of elements: all, or a part of the rows of a sharded parameter."""
        if parameter not in self._shared:
            return parameter.numel()
        return elements_held(parameter, self._shards)


def measure(step: SimulatedStep, actions: Mapping[str, Action]) -> Cost:
    """Do some of a step's actions in turn and return their cost."""
    networks = step.networks.values()
    buffers = [buffer for network in networks for buffer in network.buffers()]
    added: dict[str, int] = {}
    flops = 0
    traffic = Traffic()
    passes = Passes(step.sharded, step.trained, step.plan)
    with Meter([*unique_parameters(*networks), *buffers]) as meter, passes:
        for name, act in actions.items():
            meter.begin()
            passes.begin(step.kept.get(name))
            act()
            added[name] = meter.peak + passes.memory
            repeats = step.repeats.get(name, 0)
            flops += repeats * meter.take_flops()
            traffic = traffic.plus(passes.of_passes, repeats * step.micro_batches)
            traffic = traffic.plus(passes.of_update, repeats)
    return Cost(_held_bytes(step), added, flops, traffic)


def _held_bytes(step: SimulatedStep) -> dict[str, int]:
    """Return the bytes that a process holds throughout, with the samples of one micro-batch."""
    held = Held(step)
    trained = zip(step.trained, step.optimizers, strict=True)
    return {
        "weights": sum(
            parameter.itemsize * held(parameter) for parameter in unique_parameters(*step.networks.values())
        ),
        "optimiser": sum(
            optimizer_bytes(parameter, settings, held(parameter))
            for network, settings in trained
            for parameter in trainable(network)
        ),
        "average": BYTES_OF_FLOAT * step.averages * sum(map(held, trainable(step.averaged))),
        "batch": sum(tensor.nbytes for tensor in tensors_of(step.batch)),
    }


def measure_traffic(step: SimulatedStep, act: Action) -> Traffic:
    """Return what a process sends in the passes of an action."""
    with Passes(step.sharded, step.trained, step.plan) as passes:
        act()
    return passes.of_passes


def measure_flops(act: Action) -> int:
    """Return the floating-point operations of an action."""
    with Meter([]) as meter:
        act()
    return meter.flops


def unique_parameters(*networks: nn.Module) -> set[nn.Parameter]:
    """Return the parameters of networks; those that networks share are there once."""
    return {parameter for network in networks for parameter in network.parameters()}


def optimizer_bytes(parameter: nn.Parameter, settings: OptimizerSettings, count: int | None = None) -> int:
    """Return the bytes that an optimiser holds on the device for a parameter: moments and master weights.

    A process holds `count` of its elements; None is all.
    """
    if settings.offload:
        return 0
    held = parameter.numel() if count is None else count
    masters = BYTES_OF_FLOAT * held if is_reduced(parameter) else 0
    return masters + 2 * moment_bytes(held, settings)


def widened_bytes(network: nn.Module, held: Callable[[nn.Parameter], int]) -> int:
    """Return the bytes of gradients of fewer bits than float32, and of the float32 ones made of them."""
    reduced = (parameter for parameter in trainable(network) if is_reduced(parameter))
    return sum((parameter.itemsize + BYTES_OF_FLOAT) * held(parameter) for parameter in reduced)


def moment_bytes(count: int, settings: OptimizerSettings) -> int:
    """Return the bytes of one moment of a parameter of so many elements.

    8-bit optimisers have a float32 scale for each block, and keep small parameters in float32.
    """
    if not settings.is_8bit or count < SMALLEST:
        return BYTES_OF_FLOAT * count
    return count + BYTES_OF_FLOAT * math.ceil(count / BLOCK)


def trainable(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a network that are trained."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def count_trained(*networks: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for network in networks for parameter in trainable(network))


def tensors_of(value: object) -> Iterator[torch.Tensor]:
    """Yield the tensors of a batch, its conditions and pairs; one that is used twice comes twice."""
    if isinstance(value, torch.Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tensors_of(getattr(value, field.name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_of(item)
