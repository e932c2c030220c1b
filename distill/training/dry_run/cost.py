"""Measure a simulated step: the bytes that a run holds and adds, and its floating-point operations."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from distill.networks.activation_checkpointing import checkpoint_activations, checkpointable
from distill.training.device.precision import autocast_type
from distill.training.dry_run.meta_kernels import recompute_on_meta
from distill.training.dry_run.meter import Meter
from distill.training.dry_run.step import Action, SimulatedStep, images_at_once
from distill.training.optimization.eight_bit import BLOCK, SMALLEST
from distill.training.optimization.masters import is_reduced
from distill.training.optimization.settings import OptimizerSettings
from distill.training.settings import RunConfig

BYTES_OF_FLOAT = 4
CHECKPOINTED = ", activation checkpointing"
OPTIMIZER_UPDATE = "an optimiser's update"
Report = Callable[[str], None]
"""Takes the name of what is measured next."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Memory in bytes and floating-point operations, forward and backward, of a step of one micro-batch."""

    held: dict[str, int]
    """Bytes that the run holds throughout, by what holds them."""
    added: dict[str, int]
    """Bytes that each action adds at its peak."""
    flops: int

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
    flops = cost.flops
    if step.student_pass is not None and step.skipped_passes:
        flops -= round(step.skipped_passes * measure_flops(step.student_pass))
    widened = max((widened_bytes(network) for network in step.trained), default=0)
    if widened:
        cost.added[OPTIMIZER_UPDATE] = widened
    # The step was measured on one micro-batch, and the run holds the whole batch.
    batch = cost.held["batch"] * config.batch_size // images_at_once(config)
    return Cost({**cost.held, "batch": batch}, cost.added | outside.added, flops)


def measure(step: SimulatedStep, actions: Mapping[str, Action]) -> Cost:
    """Do some of a step's actions in turn and return their cost."""
    networks = step.networks.values()
    weights = unique_parameters(*networks)
    held = {
        "weights": sum(parameter.nbytes for parameter in weights),
        "optimiser": sum(
            optimizer_bytes(parameter, settings)
            for network, settings in zip(step.trained, step.optimizers, strict=True)
            for parameter in network.parameters()
            if parameter.requires_grad
        ),
        "average": BYTES_OF_FLOAT * count_trained(step.averaged),
        "batch": sum(tensor.nbytes for tensor in tensors_of(step.batch)),
    }
    added = {}
    flops = 0
    with Meter([*weights, *(buffer for network in networks for buffer in network.buffers())]) as meter:
        for name, act in actions.items():
            meter.begin()
            act()
            added[name] = meter.peak
            flops += step.repeats.get(name, 0) * meter.take_flops()
    return Cost(held, added, flops)


def measure_flops(act: Action) -> int:
    """Return the floating-point operations of an action."""
    with Meter([]) as meter:
        act()
    return meter.flops


def unique_parameters(*networks: nn.Module) -> set[nn.Parameter]:
    """Return the parameters of networks; those that networks share are there once."""
    return {parameter for network in networks for parameter in network.parameters()}


def optimizer_bytes(parameter: nn.Parameter, settings: OptimizerSettings) -> int:
    """Return the bytes that an optimiser holds on the device for a parameter: moments and master weights."""
    if settings.offload:
        return 0
    masters = BYTES_OF_FLOAT * parameter.numel() if is_reduced(parameter) else 0
    return masters + 2 * moment_bytes(parameter.numel(), settings)


def widened_bytes(network: nn.Module) -> int:
    """Return the bytes of gradients of fewer bits than float32, and of the float32 ones made of them."""
    trained = (parameter for parameter in network.parameters() if parameter.requires_grad)
    reduced = (parameter for parameter in trained if is_reduced(parameter))
    return sum(parameter.nbytes + BYTES_OF_FLOAT * parameter.numel() for parameter in reduced)


def moment_bytes(count: int, settings: OptimizerSettings) -> int:
    """Return the bytes of one moment of a parameter of so many elements.

    8-bit optimisers have a float32 scale for each block, and keep small parameters in float32.
    """
    if not settings.is_8bit or count < SMALLEST:
        return BYTES_OF_FLOAT * count
    return count + BYTES_OF_FLOAT * math.ceil(count / BLOCK)


def count_trained(*networks: nn.Module) -> int:
    """Return the number of trainable parameters."""
    parameters = (parameter for network in networks for parameter in network.parameters())
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)


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
