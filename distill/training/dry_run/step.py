"""Go through the step of a run, without data or optimisers; on the meta device nothing is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill.data.images import preview_count
from distill.diffusion.sampling import max_batch_size
from distill.networks.activation_checkpointing import CheckpointedBlock
from distill.networks.diffusers.autoencoder import Autoencoder
from distill.training.batches import Batch, Noise
from distill.training.device.precision import autocast_type
from distill.training.device.preparation import prepare_networks
from distill.training.distillation.build import build_method, build_networks
from distill.training.distillation.losses import Losses, fake_loss, frozen, generator_loss
from distill.training.distillation.method import Method, Networks
from distill.training.dry_run.meta_kernels import kernels, recompute_on_meta
from distill.training.dry_run.plan import ONE_PROCESS, Plan
from distill.training.dry_run.sharded import ShardedNetwork, sharded_networks
from distill.training.optimization.settings import OptimizerSettings
from distill.training.pretraining.autoencoder import autoencoder_losses
from distill.training.pretraining.teacher import build_teacher, denoising_loss
from distill.training.settings import DistillRun, RunSettings, TrainAutoencoderRun, TrainTeacherRun
from distill.types import Condition, Denoiser, Generator, ImageModel, Pairs, Text

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
    """The network of whose weights the run keeps an average."""
    batch: Batch
    """The samples that one process holds at once."""
    updates: dict[str, Action]
    """Updates of a step, in order. Each frees its gradients at its end."""
    repeats: dict[str, int]
    """The number of times that a step does each update."""
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
        return build_teacher(config, config.data.load("train"), on_meta=True).to(META).train()
    return config.teacher.meta().eval().requires_grad_(False)


def simulate_distillation(
    config: DistillRun, teacher: Denoiser, device: torch.device, plan: Plan = ONE_PROCESS
) -> SimulatedStep:
    """Build the step of a distillation whose teacher is on the device.

    With a plan of several processes, `config` has the batch of one of them.
    """
    without_start = config.generator.model_copy(update={"init_from": None})  # which has the same sizes
    config = config.model_copy(update={"generator": without_start})
    networks = build_networks(config, teacher, device)
    batch = _distillation_batch(config, teacher, networks.generator, device)
    parts: dict[str, nn.Module | None] = {
        "teacher": teacher,
        **teacher.frozen_components(),
        "generator": networks.generator,
        "fake": networks.fake,
        "discriminator": networks.discriminator,
    }
    built = {name: network for name, network in parts.items() if network is not None}
    step = _DistillationStep(config, networks, _method(config, device), batch)
    updates = {FAKE_UPDATE: step.update_fake, GENERATOR_UPDATE: step.update_generator}
    if not list(networks.fake.parameters()):  # an exact fake score
        del updates[FAKE_UPDATE]
    repeats = {name: config.fake.updates if name == FAKE_UPDATE else 1 for name in updates}
    # A generator update generates anew in micro-batches, and where no fake update has generated before.
    generates_anew = len(batch) < config.batch_size or FAKE_UPDATE not in updates
    generations = repeats.get(FAKE_UPDATE, 0) + generates_anew
    return SimulatedStep(
        networks=built,
        models=(teacher, networks.generator, networks.fake),
        trained=step.trained,
        optimizers=step.optimizers,
        averaged=networks.generator,
        batch=batch,
        updates=updates,
        repeats=repeats,
        outside_the_step=_outside_the_step(config, teacher, networks.generator, batch),
        teacher_pass=partial(predict, teacher, batch),
        student_pass=partial(generate, networks.generator, batch),
        generations=generations,
        skipped_passes=generations * (networks.generator.evaluations - 1) / 2,
        plan=plan,
        sharded=sharded_networks(built, plan, config.sharding),
        kept=_kept(config, networks),
        micro_batches=-(-config.batch_size // len(batch)),
    )


def _kept(config: DistillRun, networks: Networks) -> dict[str, nn.Module]:
    """Return the network whose gradient an exact penalty differentiates, by its update."""
    critic, r1 = networks.discriminator, None if config.discriminator is None else config.discriminator.r1
    if critic is None or r1 is None or r1.approximate or r1.at != "image":
        return {}
    return {FAKE_UPDATE: networks.read_by(critic)}


def simulate_teacher_training(
    config: TrainTeacherRun, network: Denoiser, plan: Plan = ONE_PROCESS
) -> SimulatedStep:
    """Build the step of a run that trains this teacher, on one process of the plan."""
    device = next(network.parameters()).device
    prepare_networks(config, [network])
    batch = simulate_batch(config, network, device, real=True, pairs=False)

    def update() -> None:
        with kernels(device, autocast_type(config.precision)):
            loss = denoising_loss(network, batch, config.noise_levels, config.label_dropout)
        differentiate({"teacher": loss}, [network])

    return SimulatedStep(
        networks={"teacher": network, **network.frozen_components()},
        models=[network],
        trained=[network],
        optimizers=[config.optimizer],
        averaged=network,
        batch=batch,
        updates={TEACHER_UPDATE: update},
        repeats={TEACHER_UPDATE: 1},
        plan=plan,
        sharded=sharded_networks({"teacher": network}, plan, config.sharding),
        micro_batches=-(-config.batch_size // len(batch)),
    )


def meta_autoencoder_of(config: TrainAutoencoderRun) -> Autoencoder:
    """Build the autoencoder that a run trains on the meta device."""
    image_shape = config.data.load("train").image_shape
    return Autoencoder.build(config.network, image_shape, on_meta=True).train()


def simulate_autoencoder_training(
    config: TrainAutoencoderRun, network: Autoencoder, plan: Plan = ONE_PROCESS
) -> SimulatedStep:
    """Build the step of a run that trains this autoencoder, on one process of the plan."""
    device = next(network.parameters()).device
    prepare_networks(config, [network])
    batch = simulate_batch(config, network, device, real=True, pairs=False)
    batch = dataclasses.replace(batch, eps=torch.randn(len(batch), *network.latent_shape, device=device))

    def update() -> None:
        with kernels(device, autocast_type(config.precision)):
            losses = autoencoder_losses(network, batch, config.reconstruction, config.kl_weight)
        differentiate(losses, [network])

    return SimulatedStep(
        networks={"autoencoder": network},
        models=[network],
        trained=[network],
        optimizers=[config.optimizer],
        averaged=network,
        batch=batch,
        updates={AUTOENCODER_UPDATE: update},
        repeats={AUTOENCODER_UPDATE: 1},
        plan=plan,
        micro_batches=-(-config.batch_size // len(batch)),
    )


class _DistillationStep:
    """The updates of a distillation's step, without optimisers."""

    def __init__(self, config: DistillRun, networks: Networks, method: Method, batch: Batch) -> None:
        self.networks = networks
        self.method = method
        self.batch = batch
        self.active = method.at(config.steps)
        self.is_whole_batch = len(batch) == config.batch_size
        self.autocast = autocast_type(config.precision)
        self.device = batch.z.device
        self.trained: list[nn.Module] = [networks.generator, networks.fake]
        self.optimizers = [config.generator.optimizer, config.fake.optimizer]
        if networks.discriminator is not None:
            self.trained.append(networks.discriminator)
            # The critic of an exact ratio has no settings, and no parameters.
            self.optimizers.append((config.discriminator or config.fake).optimizer)
        self._x0: Tensor | None = None
        """Samples of the last fake update, with a graph where the generator update will use them."""

    def update_fake(self) -> None:
        with kernels(self.device, self.autocast):
            self._x0 = None
            with torch.set_grad_enabled(self.is_whole_batch):
                self._x0 = self.networks.generator(self.batch.z, self.batch.cond)
            losses, _ = fake_loss(self.networks, self.method, self.batch, self._x0)
        differentiate(losses, self.trained)

    def update_generator(self) -> None:
        x0, self._x0 = self._x0, None
        with frozen(*self.trained[1:]):
            with kernels(self.device, self.autocast):
                sample = x0
                if sample is None or not sample.requires_grad:
                    sample = self.networks.generator(self.batch.z, self.batch.cond)
                losses, _ = generator_loss(self.networks, self.method, self.batch, sample, self.active)
            differentiate(losses, self.trained)


def _distillation_batch(
    config: DistillRun, teacher: Denoiser, generator: Generator, device: torch.device
) -> Batch:
    """Make up a batch with the fields that the run asks for."""
    batch = simulate_batch(config, teacher, device, config.discriminator is not None, config.needs_pairs)
    noise = Noise(batch.u, batch.eps)
    own: dict[str, Any] = dict.fromkeys(config.own_noise, noise)
    z = torch.randn(len(batch), *generator.noise_shape, device=device)
    decided = generator.condition_of(z)
    cond = batch.cond if decided is None else dataclasses.replace(batch.cond, camera=decided.camera)
    return dataclasses.replace(batch, z=z, cond=cond, **own)


def _method(config: DistillRun, device: torch.device) -> Method:
    """Build the losses. On the meta device, terms that recompute their networks do so by its kernels."""
    method = build_method(config, device, meta=True)
    if device.type == "meta":
        for term in method.terms:
            for block in checkpointed_blocks(term.term):
                block.recompute = recompute_on_meta(autocast_type(config.precision))
    return method


def _outside_the_step(
    config: DistillRun, teacher: Denoiser, generator: Generator, batch: Batch
) -> dict[str, Action]:
    actions: dict[str, Action] = {"preview samples": partial(preview, generator, batch)}
    if batch.real is not None and teacher.pixel_shape != teacher.image_shape:
        count = min(config.batch_size, max_batch_size(teacher.pixel_shape))
        actions["encoding real images"] = partial(encode, teacher, count, batch.z.device)
    return actions


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


def checkpointed_blocks(term: object) -> Iterator[CheckpointedBlock]:
    """Yield a term's blocks that are always recomputed, whatever `activation_checkpointing` is."""
    if isinstance(term, nn.Module):
        for module in term.modules():
            if isinstance(module, CheckpointedBlock) and module.recompute is not None:
                yield module


def differentiate(losses: Losses, trained: Sequence[nn.Module]) -> None:
    """Compute the gradients and free them, as an optimiser's update would."""
    total = torch.stack(list(losses.values())).sum()
    if total.requires_grad:
        total.backward()
    for network in trained:
        network.zero_grad()


@torch.no_grad()
def predict(network: Denoiser, batch: Batch) -> None:
    """Take one forward pass, unguided."""
    with kernels(batch.z.device):
        network(batch.eps, batch.u, batch.cond)


@torch.no_grad()
def generate(generator: Generator, batch: Batch) -> None:
    """Generate images by the student's first step alone."""
    with kernels(batch.z.device):
        generator(batch.z[:, : generator.step_noise_shape[0]], batch.cond)


@torch.no_grad()
def preview(generator: Generator, batch: Batch) -> None:
    """Generate and decode as many preview images as a run makes at once."""
    device = batch.z.device
    count = min(max_batch_size(generator.pixel_shape), preview_count(generator.pixel_shape))
    rows = torch.zeros(count, dtype=torch.int64, device=device)
    with kernels(device):
        generator.images(torch.randn(count, *generator.noise_shape, device=device), batch.cond[rows])


@torch.no_grad()
def encode(network: ImageModel, count: int, device: torch.device) -> None:
    """Encode that many images to latents."""
    with kernels(device):
        network.encode(torch.zeros(count, *network.pixel_shape, device=device))
