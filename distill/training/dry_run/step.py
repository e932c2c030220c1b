"""A step of a run that is gone through without data or optimisers; on the meta device nothing is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from distill.training.batches import Batch
from distill.training.distillation.losses import Losses
from distill.training.dry_run.plan import ONE_PROCESS, Plan
from distill.training.dry_run.sharded import ShardedNetwork
from distill.training.optimization.settings import OptimizerSettings
from distill.training.pretraining.teacher import build_teacher
from distill.training.settings import DistillRun, RunSettings, TrainTeacherRun
from distill.types import Condition, Denoiser, ImageModel, Pairs, Text

Action = Callable[[], None]
META = torch.device("meta")
FAKE_UPDATE = "a fake update"
GENERATOR_UPDATE = "a generator update"
TEACHER_UPDATE = AUTOENCODER_UPDATE = "an update"


@dataclasses.dataclass(frozen=True)
class SimulatedStep:
    """The networks of a run and what it does with them, by name, ready to be measured."""

    networks: dict[str, nn.Module]
    models: Sequence[ImageModel]
    """Networks whose activations can be checkpointed."""
    trained: Sequence[nn.Module]
    optimizers: Sequence[OptimizerSettings]
    """The optimisers of the trained networks, in the same order."""
    averaged: nn.Module
    """The network of whose weights the run keeps averages."""
    batch: Batch
    """The samples that one process holds at once."""
    updates: dict[str, Action]
    """Updates of a step, in order. Each frees its gradients at its end."""
    repeats: dict[str, int]
    """The number of times that a step does each update."""
    averages: int = 1
    """The number of its averages."""
    outside_the_step: dict[str, Action] = dataclasses.field(default_factory=dict)
    """Actions of the run between its steps, by name."""
    teacher_pass: Action | None = None
    student_pass: Action | None = None
    """One evaluation of the student."""
    generations: int = 0
    """The number of times that a step has the student generate the batch for training."""
    skipped_passes: float = 0.0
    """Student evaluations that a step leaves out on average.

    It trains after a random number of the student's steps, and the updates here take all of them.
    """
    plan: Plan = ONE_PROCESS
    """The processes of the run, of which one makes this step."""
    sharded: Sequence[ShardedNetwork] = ()
    """The networks that its processes share."""
    kept: Mapping[str, nn.Module] = dataclasses.field(default_factory=dict)
    """By update, the sharded network that stays whole between its passes: it is differentiated twice."""
    micro_batches: int = 1
    """The number of times that an update does its passes, with a part of the process's images each."""


def meta_teacher_of(config: DistillRun | TrainTeacherRun) -> Denoiser:
    """Build the teacher of a run on the meta device: the one that it distils, or the one that it trains."""
    if isinstance(config, TrainTeacherRun):
        config = config.model_copy(update={"init_from": None})  # which has the same sizes
        return build_teacher(config, config.data.load("train"), on_meta=True).to(META).train()
    teacher = config.teacher.meta().eval().requires_grad_(False)
    encoder = teacher.prompt_encoder
    if encoder is not None and config.prompts is not None and config.prompts.precomputed is not None:
        teacher.prompt_encoder = PrecomputedPrompts(encoder.shapes())
    if config.drops_encoder:
        teacher.drop_encoder()
    return teacher


class PrecomputedPrompts:
    """The `PromptEncoder` of a run whose prompts were encoded before: it has shapes, and no networks."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def encode(self, prompts: Sequence[str]) -> Condition:
        raise ValueError("a dry run reads no prompts")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._shapes

    def sha256(self) -> str:
        raise ValueError("a dry run reads no prompts")

    def components(self) -> dict[str, nn.Module]:
        return {}


def images_at_once(config: RunSettings, processes: int = 1) -> int:
    """Return the number of images that one process computes together; `auto` is its whole batch."""
    whole = max(1, config.batch_size // processes)
    size = config.micro_batch_size
    return min(whole, size) if isinstance(size, int) else whole


def simulate_batch(
    config: RunSettings, network: ImageModel, device: torch.device, real: bool, pairs: bool
) -> Batch:
    """Make up as many samples as one process holds at once."""
    count = images_at_once(config)
    image = torch.randn(count, *network.image_shape, device=device)
    u = torch.full((count,), 0.5, device=device)
    cond = _condition(network, count, device)
    return Batch(
        z=image,
        cond=cond,
        u=u,
        eps=image,
        u_fake=u,
        eps_fake=image,
        real=image if real else None,
        eps_real=image,
        pairs=Pairs(image, cond, image) if pairs else None,
        crop_positions=torch.full((count, 2), 0.5, device=device),
    )


def _condition(network: ImageModel, count: int, device: torch.device) -> Condition:
    if network.prompt_encoder is not None:
        shapes = network.prompt_encoder.shapes()
        given = {name: torch.randn(count, *shape, device=device) for name, shape in shapes.items()}
        unconditional = {name: torch.randn(1, *shape, device=device) for name, shape in shapes.items()}
        return Condition(text=Text(given, unconditional))
    if network.label_count:
        return Condition(torch.zeros(count, dtype=torch.int64, device=device))
    return Condition()


def differentiate(losses: Losses, trained: Sequence[nn.Module]) -> None:
    """Compute the gradients and free them, as an optimiser's update would."""
    total = torch.stack(list(losses.values())).sum()
    if total.requires_grad:
        total.backward()
    for network in trained:
        network.zero_grad()
