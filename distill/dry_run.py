"""What a run would take, without weights, data or training: its networks are built and one step is gone through on the meta device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from distill.batches import Batch
from distill.distillation import build_method, build_networks
from distill.run_settings import DistillRun, RunConfig, RunSettings, TrainTeacherRun
from distill.step import fake_loss, frozen, generator_loss
from distill.teacher_training import build_teacher, denoising_loss
from distill.types import Condition, Denoiser, Pairs, Text

META = torch.device("meta")
FLOAT, MIB = 4, 2**20


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of a part of a step: floating-point operations, there and back, and bytes of activations held for the way back, in float32."""

    flops: int
    activations: int


def describe_run(config: RunConfig) -> str:
    """The networks of a run, its memory on one process and the work of one step, as text. Raises UserError as the run itself would."""
    if isinstance(config, TrainTeacherRun):
        return _describe_teacher_run(config)
    return _describe_distillation(config)


def _describe_distillation(config: DistillRun) -> str:
    config = config.model_copy(update={"generator": config.generator.model_copy(update={"init_from": None})})  # the same sizes
    teacher = config.teacher.outline().eval().requires_grad_(False)
    networks, method = build_networks(config, teacher, META), build_method(config, META, outline=True)
    batch = _empty_batch(config, teacher, config.discriminator is not None, config.needs_pairs)
    z = torch.empty(len(batch), *networks.generator.noise_shape, device=META)
    parts = {
        "teacher": teacher,
        **teacher.other_parts(),
        "generator": networks.generator,
        "fake": networks.fake,
        "discriminator": networks.discriminator,
    }
    built = {name: network for name, network in parts.items() if network is not None}
    learners = [network for name, network in built.items() if name in ("generator", "fake", "discriminator")]

    def fake_update() -> Tensor:
        return sum(fake_loss(networks, method, batch, batch.eps)[0].values(), torch.zeros((), device=META))

    def generator_update() -> Tensor:
        with frozen(*learners[1:]):
            losses, _ = generator_loss(networks, method, batch, networks.generator(z, batch.cond), config.steps)
        return sum(losses.values(), torch.zeros((), device=META))

    fake, generator = _measure(fake_update, learners), _measure(generator_update, learners)
    with torch.no_grad():
        make = _measure(lambda: networks.generator(z, batch.cond), learners)
        look = _measure(lambda: teacher(batch.eps, batch.u, batch.cond), learners)
    fake_updates = config.fake.updates if _size(networks.fake) else 0
    # The student's samples of the last fake update serve the generator's, unless they come in micro-batches.
    made_for_fake = fake_updates - 1 if fake_updates and len(batch) == config.batch_size else fake_updates
    # Images for training are of any number of the student's steps: half of those after the first, on average, are not taken.
    evaluations = networks.generator.evaluations
    spared = (made_for_fake + 1) * make.flops * (evaluations - 1) / (2 * evaluations)
    flops = (fake_updates * fake.flops + made_for_fake * make.flops + generator.flops - spared) * config.batch_size / len(batch)
    real = fake_updates * config.batch_size if batch.real is not None else 0
    work = [f"a generator step makes {(made_for_fake + 1) * config.batch_size} images of the student and looks at {real} real ones", _work(flops)]
    if _size(teacher):
        work[-1] += f", {flops / look.flops * len(batch) / config.batch_size:.1f} forward passes of the teacher on as many images"
    if evaluations > 1:
        work.append(f"an image of the student takes {evaluations} evaluations, one for training {(evaluations + 1) / 2:g} on average")
    if left_out := [name for term in config.terms for name in term.left_out]:
        work.append(f"not counted, neither here nor above: the networks of {', '.join(left_out)}, whose weights say what they are")
    activations = {"a generator update": generator, **({"a fake update": fake} if fake_updates else {})}
    return _report(config, built, learners, networks.generator, activations, work)


def _describe_teacher_run(config: TrainTeacherRun) -> str:
    data = config.data.load("train")
    network = build_teacher(config.network, data.image_shape, data.label_count).to(META).train()
    batch = _empty_batch(config, network, real=True, pairs=False)
    cost = _measure(lambda: denoising_loss(network, batch, config.noise_levels), [network])
    work = [f"a step looks at {config.batch_size} images", _work(cost.flops * config.batch_size / len(batch))]
    return _report(config, {"teacher": network}, [network], network, {"an update": cost}, work)


def _empty_batch(config: RunSettings, network: Denoiser, real: bool, pairs: bool) -> Batch:
    """As many samples as one process would hold at once."""
    count = min(config.batch_size, config.micro_batch_size or config.batch_size)
    image = torch.empty(count, *network.image_shape, device=META)
    u = torch.empty(count, device=META)
    cond = Condition(torch.empty(count, dtype=torch.int64, device=META) if network.label_count else None)
    if network.takes_text:
        given, none = ({name: torch.empty(rows, *shape, device=META) for name, shape in network.text_shapes().items()} for rows in (count, 1))
        cond = Condition(text=Text(given, none))
    made = Pairs(image, cond, image) if pairs else None
    return Batch(image, cond, u, image, u, image, image if real else None, image, made, torch.empty(count, 2, device=META))


def _measure(loss: Callable[[], Tensor], learners: Sequence[nn.Module]) -> Cost:
    """What a loss costs with its gradient."""
    weights = {parameter.untyped_storage()._cdata for network in learners for parameter in network.parameters()}
    held: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        held[value.untyped_storage()._cdata] = value
        return value

    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(pack, lambda value: value):
            total = loss()
        activations = sum(value.untyped_storage().nbytes() for key, value in held.items() if key not in weights)
        if total.requires_grad:
            total.backward()
    return Cost(counter.get_total_flops(), activations)


def _work(flops: float) -> str:
    return f"it costs {flops:.3g} floating-point operations"


def _report(
    config: RunConfig, parts: Mapping[str, nn.Module], learners: Sequence[nn.Module], averaged: nn.Module, updates: dict[str, Cost], work: list[str]
) -> str:
    learnt = _learnt(*learners)
    rows = min(config.batch_size, config.micro_batch_size or config.batch_size)
    memory = {"weights": FLOAT * _size(*parts.values()), "gradients": FLOAT * learnt, "optimiser": 2 * FLOAT * learnt}
    memory["average"] = FLOAT * _learnt(averaged)
    standing = sum(memory.values())
    memory |= {f"activations of {name}, {rows} images": cost.activations for name, cost in updates.items()}
    most = standing + max(cost.activations for cost in updates.values())
    lines = [f"{config.task}: nothing is loaded, trained or written", "", f"{'network':<15} {'class':<20} {'parameters':>12}"]
    for name, network in parts.items():
        lines.append(f"{name:<15} {type(network).__name__:<20} {_size(network):>12,}  {_what_learns(network, network in learners)}")
    lines += ["", "memory of one process, in float32"]
    lines += [f"{value / MIB:>10,.1f} MiB  {name}" for name, value in memory.items()]
    lines += [f"{most / MIB:>10,.1f} MiB  at most, without what the library itself takes", "", *work]
    return "\n".join(lines)


def _what_learns(network: nn.Module, is_learner: bool) -> str:
    learnt = _learnt(network) if is_learner else 0
    if learnt == 0:
        return "frozen"
    return "learns" if learnt == _size(network) else f"{learnt:,} of them learn, the others are the teacher's"


def _size(*networks: nn.Module) -> int:
    """Parameters, those that networks share counted once."""
    return sum(parameter.numel() for parameter in {parameter for network in networks for parameter in network.parameters()})


def _learnt(*networks: nn.Module) -> int:
    """Parameters that learn."""
    return sum(parameter.numel() for network in networks for parameter in network.parameters() if parameter.requires_grad)
