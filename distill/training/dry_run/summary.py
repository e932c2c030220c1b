"""What a run would take, without weights, data or training: its step is rehearsed on the meta device, in the ways in which it could be run."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from distill.networks.activation_checkpointing import checkpoint_activations, checkpointable
from distill.networks.diffusers.denoiser import DiffusersNetwork
from distill.students import copy, lora
from distill.training.dry_run.meter import Meter
from distill.training.dry_run.step import (
    Rehearsal,
    recompute_on_meta,
    rehearse_distillation,
    rehearse_teacher_training,
)
from distill.training.settings import DistillRun, RunConfig, TrainTeacherRun
from distill.training.teacher_training import build_teacher
from distill.types import Denoiser

META = torch.device("meta")
FLOAT, MIB = 4, 2**20
CHECKPOINTED = ", activation checkpointing"


@dataclasses.dataclass(frozen=True)
class Cost:
    """Bytes that a run holds throughout, and that each thing it does adds at most, by name; a step's floating-point operations, there and back."""

    held: dict[str, int]
    added: dict[str, int]
    flops: int

    @property
    def most(self) -> int:
        """Bytes at the worst of times."""
        return sum(self.held.values()) + max(self.added.values())


def describe_run(config: RunConfig) -> str:
    """The networks of a run, its memory on one process and the work of one step, as text. Raises UserError as the run itself would."""
    lines = (
        _describe_teacher_run(config)
        if isinstance(config, TrainTeacherRun)
        else _describe_distillation(config)
    )
    return "\n".join([f"{config.task}: nothing is loaded, trained or written", "", *lines])


def _describe_distillation(config: DistillRun) -> list[str]:
    teacher = config.teacher.meta().eval().requires_grad_(False)
    costs: dict[str, Cost] = {}
    for way, variant in ways(config, teacher).items():
        rehearsal = rehearse_distillation(variant, teacher, META)
        costs |= measure_both(way, rehearsal, variant)
        if variant == config:
            own, chosen = rehearsal, way + CHECKPOINTED * config.activation_checkpointing
    cost, made = costs[chosen], own.generations * config.batch_size
    real = own.repeats.get("a fake update", 0) * config.batch_size if config.discriminator is not None else 0
    work = _work(config, cost)
    if _size(teacher) and own.pass_of_the_teacher is not None:
        work += f", {cost.flops / meter_flops(own.pass_of_the_teacher):.1f} forward passes of the teacher on as many images"
    lines = [f"a generator step makes {made} images of the student and looks at {real} real ones", work]
    steps = config.generator.steps
    if steps > 1:
        lines.append(
            f"an image of the student takes {steps} evaluations, one for training {(steps + 1) / 2:g} on average"
        )
    if left_out := [name for term in config.terms for name in term.left_out]:
        lines.append(
            f"not counted, neither here nor above: the networks of {', '.join(left_out)}, whose weights say what they are"
        )
    return [
        *_describe_networks(own),
        "",
        *_describe_memory(config, cost),
        "",
        *_compare(costs, chosen),
        *lines,
    ]


def _describe_teacher_run(config: TrainTeacherRun) -> list[str]:
    data = config.data.load("train")
    network = build_teacher(config.network, data.image_shape, data.label_count).to(META).train()
    rehearsal = rehearse_teacher_training(config, network)
    costs, chosen = (
        measure_both("in full", rehearsal, config),
        "in full" + CHECKPOINTED * config.activation_checkpointing,
    )
    work = [f"a step looks at {config.batch_size} images", _work(config, costs[chosen])]
    return [
        *_describe_networks(rehearsal),
        "",
        *_describe_memory(config, costs[chosen]),
        "",
        *_compare(costs, chosen),
        *work,
    ]


def ways(config: DistillRun, teacher: Denoiser) -> dict[str, DistillRun]:
    """What could learn, by name: the run itself and, where the teacher takes adapters, all weights of student and fake score, or adapters alone."""
    if not isinstance(teacher, DiffusersNetwork):
        return {"in full": config}
    own, known = (config.generator.network, config.fake.network), {}
    for way, kinds in {"in full": copy, "LoRA": lora}.items():
        network = own[0] if isinstance(own[0], kinds.Student) else kinds.Student()
        fake = own[1] if isinstance(own[1], kinds.FakeScore) else kinds.FakeScore()
        parts = {
            "generator": config.generator.model_copy(update={"network": network}),
            "fake": config.fake.model_copy(update={"network": fake}),
        }
        known[way] = config.model_copy(update=parts)
    return known if config in known.values() else {f"{own[0].name} and {own[1].name}": config, **known}


def measure_both(way: str, rehearsal: Rehearsal, config: RunConfig) -> dict[str, Cost]:
    """The cost without activation checkpointing and with it, or, where no network could be checkpointed, that of the run."""
    besides = measure(rehearsal, rehearsal.besides)
    costs = {}
    is_possible = any(True for model in rehearsal.models for _ in checkpointable(model))
    for is_on in (False, True) if is_possible else (config.activation_checkpointing,):
        for model in rehearsal.models:
            checkpoint_activations(model, recompute_on_meta(config.precision == "bf16") if is_on else None)
        cost = measure(rehearsal, rehearsal.updates)
        if rehearsal.step_of_the_student is not None:
            cost = dataclasses.replace(
                cost,
                flops=cost.flops
                - round(rehearsal.untaken_steps * meter_flops(rehearsal.step_of_the_student)),
            )
        held = {**cost.held, "batch": cost.held["batch"] * config.batch_size // images_at_once(config)}
        costs[way + CHECKPOINTED * is_on] = dataclasses.replace(
            cost, held=held, added=cost.added | besides.added
        )
    return costs


def measure(rehearsal: Rehearsal, what: Mapping[str, Callable[[], None]]) -> Cost:
    """The cost of some of what is rehearsed, done in turn."""
    networks = rehearsal.networks.values()
    learnt = FLOAT * _learnt(*rehearsal.learners)
    weights = {parameter: parameter.nbytes for network in networks for parameter in network.parameters()}
    held = {
        "weights": sum(weights.values()),
        "optimiser": 2 * learnt,
        "average": FLOAT * _learnt(rehearsal.averaged),
    }
    held["batch"] = sum(tensor.nbytes for tensor in tensors_of(rehearsal.batch))
    added, flops = {}, 0
    with Meter([*weights, *(buffer for network in networks for buffer in network.buffers())]) as meter:
        for name, do in what.items():
            meter.begin()
            do()
            added[name] = meter.most
            flops += rehearsal.repeats.get(name, 0) * meter.take_flops()
    return Cost(held, added, flops)


def meter_flops(do: Callable[[], None]) -> int:
    """Floating-point operations."""
    with Meter([]) as meter:
        do()
    return meter.flops


def tensors_of(value: Any) -> Iterator[torch.Tensor]:
    """Those of a batch, its conditions and pairs, one after the other, each where it stands."""
    if isinstance(value, torch.Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        yield from itertools.chain.from_iterable(
            tensors_of(getattr(value, field.name)) for field in dataclasses.fields(value)
        )
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(tensors_of, value.values()))


def images_at_once(config: RunConfig) -> int:
    """Images of a step that one process holds together."""
    return min(config.batch_size, config.micro_batch_size or config.batch_size)


def _describe_networks(rehearsal: Rehearsal) -> list[str]:
    lines = [f"{'network':<15} {'class':<20} {'parameters':>12}"]
    for name, network in rehearsal.networks.items():
        learns = _what_learns(network, network in rehearsal.learners)
        lines.append(f"{name:<15} {type(network).__name__:<20} {_size(network):>12,}  {learns}")
    return lines


def _describe_memory(config: RunConfig, cost: Cost) -> list[str]:
    rows = images_at_once(config)
    precision = "bfloat16, as CUDA's autocast does" if config.precision == "bf16" else "float32"
    lines = [
        f"memory of one process: {rows} {'images' if rows > 1 else 'image'} at once, computing in {precision}"
    ]
    lines += [f"{value / MIB:>12,.1f} MiB  {name}" for name, value in cost.held.items()]
    lines += [f"{value / MIB:>12,.1f} MiB  more for {name}" for name, value in cost.added.items()]
    return [*lines, f"{cost.most / MIB:>12,.1f} MiB  at most, without what the library itself takes"]


def _work(config: RunConfig, cost: Cost) -> str:
    return f"it costs {cost.flops * config.batch_size / images_at_once(config):.3g} floating-point operations"


def _compare(costs: Mapping[str, Cost], chosen: str) -> list[str]:
    """A table of the costs, or nothing where there is one."""
    if len(costs) < 2:
        return []
    width = max(map(len, costs))
    names = ("weights", "optimiser", "average", "batch", "more", "at most")
    lines = [" ".join([f"{'MiB':<{width}}", *(f"{name:>10}" for name in names), f"{'work':>6}"])]
    for way, cost in costs.items():
        numbers = [*cost.held.values(), max(cost.added.values()), cost.most]
        cells = " ".join(f"{number / MIB:>10,.1f}" for number in numbers)
        work = cost.flops / costs[chosen].flops
        lines.append(f"{way:<{width}} {cells} {work:>6.2f}{'  this run' if way == chosen else ''}")
    return [*lines, ""]


def _what_learns(network: nn.Module, is_learner: bool) -> str:
    learnt = _learnt(network) if is_learner else 0
    if learnt == 0:
        types = {str(parameter.dtype).removeprefix("torch.") for parameter in network.parameters()} - {
            "float32"
        }
        return ", ".join(["frozen", *sorted(types)])
    return "learns" if learnt == _size(network) else f"{learnt:,} of them learn, the others are the teacher's"


def _size(*networks: nn.Module) -> int:
    """Parameters, those that networks share counted once."""
    return sum(
        parameter.numel()
        for parameter in {parameter for network in networks for parameter in network.parameters()}
    )


def _learnt(*networks: nn.Module) -> int:
    """Parameters that learn."""
    return sum(
        parameter.numel()
        for network in networks
        for parameter in network.parameters()
        if parameter.requires_grad
    )
