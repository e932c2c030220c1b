"""The step of a run gone through in its order, on any device, with neither data nor optimisers: on the meta device, what it would take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill.data.images import preview_count
from distill.diffusion.sampling import max_batch_size
from distill.networks.activation_checkpointing import CheckpointedBlock, Recompute, recompute
from distill.training.batches import Batch, Noise
from distill.training.distillation.build import build_method, build_networks
from distill.training.distillation.losses import Losses, fake_loss, frozen, generator_loss
from distill.training.dry_run.meta_kernels import MetaKernels
from distill.training.settings import DistillRun, RunSettings, TrainTeacherRun
from distill.training.teacher_training import denoising_loss
from distill.types import Condition, Denoiser, Generator, ImageModel, Pairs, Text


@dataclasses.dataclass(frozen=True)
class Rehearsal:
    """The networks of a run by name, those of them that learn, that of whose weights an average is kept, and what is done with them, by name.

    `batch` are the samples that it has at once. `updates` are those of a step, in order, each with its gradients, which are gone when it ends; a
    step has `repeats` of each. `besides` is what a run does besides its steps. `models` are the networks that can be checkpointed. A step has the
    student make images for training `generations` times. They are of any number of its steps, and all of them are rehearsed: `untaken_steps` of
    them are not taken on average.
    """

    networks: dict[str, nn.Module]
    models: Sequence[ImageModel]
    learners: Sequence[nn.Module]
    averaged: nn.Module
    batch: Batch
    updates: dict[str, Callable[[], None]]
    repeats: dict[str, int]
    besides: dict[str, Callable[[], None]]
    pass_of_the_teacher: Callable[[], None] | None = None
    step_of_the_student: Callable[[], None] | None = None
    generations: int = 0
    untaken_steps: float = 0.0


def rehearse_distillation(config: DistillRun, teacher: Denoiser, device: torch.device) -> Rehearsal:
    """Of a run whose teacher is on the device. Raises UserError as the run would."""
    config = config.model_copy(
        update={"generator": config.generator.model_copy(update={"init_from": None})}
    )  # the same sizes
    networks, method = build_networks(config, teacher, device), build_method(config, device, meta=True)
    for term in method.terms if device.type == "meta" else ():
        for block in checkpointed_blocks(term.term):
            block.recompute = recompute_on_meta(config.precision == "bf16")
    batch = invent_batch(config, teacher, device, config.discriminator is not None, config.needs_pairs)
    own: dict[str, Any] = {name: Noise(batch.u, batch.eps) for name in config.own_noise}
    batch = dataclasses.replace(batch, **own)
    z, autocast = (
        torch.randn(len(batch), *networks.generator.noise_shape, device=device),
        config.precision == "bf16",
    )
    parts: dict[str, nn.Module | None] = {
        "teacher": teacher,
        **teacher.frozen_components(),
        "generator": networks.generator,
        "fake": networks.fake,
        "discriminator": networks.discriminator,
    }
    built = {name: network for name, network in parts.items() if network is not None}
    learners = [network for name, network in built.items() if name in ("generator", "fake", "discriminator")]
    kept: list[Tensor] = []

    def update_fake() -> None:
        with kernels(device, autocast):
            # As in a run: the student's samples of the last fake update serve the generator's, unless they come in micro-batches.
            with torch.set_grad_enabled(len(batch) == config.batch_size):
                kept[:] = [networks.generator(z, batch.cond)]
            losses, _ = fake_loss(networks, method, batch, kept[0])
        differentiate(losses, learners)

    def update_generator() -> None:
        x0 = kept.pop() if kept else None
        with frozen(*learners[1:]):
            with kernels(device, autocast):
                sample = x0 if x0 is not None and x0.requires_grad else networks.generator(z, batch.cond)
                losses, _ = generator_loss(networks, method, batch, sample, config.steps)
            differentiate(losses, learners)

    updates = {"a fake update": update_fake, "a generator update": update_generator}
    if not any(True for _ in networks.fake.parameters()):  # an exact one
        del updates["a fake update"]
    besides: dict[str, Callable[[], None]] = {"samples to look at": partial(look, networks.generator, batch)}
    if batch.real is not None and teacher.pixel_shape != teacher.image_shape:
        besides["encoding real images"] = partial(
            encode, teacher, min(config.batch_size, max_batch_size(teacher.pixel_shape)), device
        )
    models = (teacher, networks.generator, networks.fake)
    repeats = {name: config.fake.updates if "fake" in name else 1 for name in updates}
    # Micro-batches' samples are made anew for the generator's update.
    generations = repeats.get("a fake update", 0) + (len(batch) < config.batch_size or len(updates) == 1)
    passes = (partial(predict, teacher, batch), partial(generate, networks.generator, batch))
    untaken = generations * (networks.generator.evaluations - 1) / 2
    return Rehearsal(
        built,
        models,
        learners,
        networks.generator,
        batch,
        updates,
        repeats,
        besides,
        *passes,
        generations,
        untaken,
    )


def rehearse_teacher_training(config: TrainTeacherRun, network: Denoiser) -> Rehearsal:
    """Of a run that trains this teacher, without its samples."""
    device = next(network.parameters()).device
    batch = invent_batch(config, network, device, real=True, pairs=False)
    autocast = config.precision == "bf16"

    def update() -> None:
        with kernels(device, autocast):
            loss = denoising_loss(network, batch, config.noise_levels, config.label_dropout)
        differentiate({"teacher": loss}, [network])

    return Rehearsal(
        {"teacher": network},
        [network],
        [network],
        network,
        batch,
        {"an update": update},
        {"an update": 1},
        {},
    )


def invent_batch(
    config: RunSettings, network: Denoiser, device: torch.device, real: bool, pairs: bool
) -> Batch:
    """As many samples as one process would hold at once."""
    count = min(config.batch_size, config.micro_batch_size or config.batch_size)
    image, u, cond = (
        torch.randn(count, *network.image_shape, device=device),
        torch.full((count,), 0.5, device=device),
        Condition(),
    )
    if network.label_count:
        cond = Condition(torch.zeros(count, dtype=torch.int64, device=device))
    if network.prompt_encoder is not None:
        shapes = network.prompt_encoder.shapes()
        given, unconditional = (
            {name: torch.randn(rows, *shape, device=device) for name, shape in shapes.items()}
            for rows in (count, 1)
        )
        cond = Condition(text=Text(given, unconditional))
    made, crop_positions = (
        Pairs(image, cond, image) if pairs else None,
        torch.full((count, 2), 0.5, device=device),
    )
    return Batch(image, cond, u, image, u, image, image if real else None, image, made, crop_positions)


def kernels(device: torch.device, autocast: bool) -> AbstractContextManager[object]:
    """Within, networks compute as they would, with or without bfloat16; on the meta device as they would on CUDA."""
    return (
        MetaKernels(autocast)
        if device.type == "meta"
        else torch.autocast(device.type, torch.bfloat16, enabled=autocast)
    )


def checkpointed_blocks(term: object) -> Iterator[CheckpointedBlock]:
    """The blocks of a term that run again in the backward pass, whatever the run's activation checkpointing is."""
    modules = term.modules() if isinstance(term, nn.Module) else ()
    return (
        module for module in modules if isinstance(module, CheckpointedBlock) and module.recompute is not None
    )


def recompute_on_meta(autocast: bool) -> Recompute:
    """How blocks on the meta device run again: as they ran, which torch knows of its own autocast alone."""
    return partial(recompute, context_fn=lambda: (nullcontext(), MetaKernels(autocast)))


def differentiate(losses: Losses, learners: Sequence[nn.Module]) -> None:
    """The gradients, which are then let go, as by an update of the optimisers."""
    total = torch.stack(list(losses.values())).sum()
    if total.requires_grad:
        total.backward()
    for network in learners:
        network.zero_grad()


@torch.no_grad()
def predict(network: Denoiser, batch: Batch) -> None:
    """Predict once, unguided."""
    with kernels(batch.z.device, autocast=False):
        network(batch.z, batch.u, batch.cond)


@torch.no_grad()
def generate(generator: Generator, batch: Batch) -> None:
    """Make images of the student's first step."""
    with kernels(batch.z.device, autocast=False):
        generator(batch.z, batch.cond)


@torch.no_grad()
def look(generator: Generator, batch: Batch) -> None:
    """Make as many samples as a run makes at once for its grids."""
    count = min(max_batch_size(generator.pixel_shape), preview_count(generator.pixel_shape))
    rows = torch.zeros(count, dtype=torch.int64, device=batch.z.device)
    with kernels(batch.z.device, autocast=False):
        generator.decode(
            generator(torch.randn(count, *generator.noise_shape, device=batch.z.device), batch.cond[rows])
        )


@torch.no_grad()
def encode(network: ImageModel, count: int, device: torch.device) -> None:
    """Encode so many images."""
    with kernels(device, autocast=False):
        network.encode(torch.zeros(count, *network.pixel_shape, device=device))
