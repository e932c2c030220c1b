"""Go through the step of a distillation, without data or optimisers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill.networks.computation.activation_checkpointing import CheckpointedBlock
from distill.training.batches import Batch, Noise
from distill.training.device.precision import autocast_type
from distill.training.distillation.build import build_method, build_networks
from distill.training.distillation.losses import fake_loss, frozen, generator_loss
from distill.training.distillation.method import Method, Networks
from distill.training.dry_run.meta_kernels import kernels, recompute_on_meta
from distill.training.dry_run.outside_the_step import PREVIEW, encoding, preview_rows
from distill.training.dry_run.plan import ONE_PROCESS, Plan
from distill.training.dry_run.sharded import sharded_networks
from distill.training.dry_run.step import (
    FAKE_UPDATE,
    GENERATOR_UPDATE,
    Action,
    SimulatedStep,
    differentiate,
    simulate_batch,
)
from distill.training.optimization.average_settings import averages_of
from distill.training.settings import DistillRun
from distill.types import Denoiser, Generator


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
    if not any(list(network.parameters()) for network in step.trained[1:]):  # an exact fake score alone
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
        averages=len(averages_of(config.generator.ema)),
        batch=batch,
        updates=updates,
        repeats=repeats,
        outside_the_step=_outside_the_step(config, teacher, networks.generator, batch),
        teacher_pass=partial(predict, teacher, batch),
        student_pass=partial(generate, networks.generator, batch),
        generations=generations,
        skipped_passes=generations
        * (networks.generator.evaluations - config.first_objective_step)
        / 2
        * (batch.step is None),
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


class _DistillationStep:
    """The updates of a distillation's step, without optimisers."""

    def __init__(self, config: DistillRun, networks: Networks, method: Method, batch: Batch) -> None:
        self.networks = networks
        self.method = method
        self.batch = batch
        # A term that stops needs its memory before; terms that follow each other are counted together.
        self.active = method.within(config.steps)
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
                self._x0 = self.networks.generator(*self.batch.generator_inputs)
            losses, _ = fake_loss(self.networks, self.method, self.batch, self._x0)
        differentiate(losses, self.trained)

    def update_generator(self) -> None:
        x0, self._x0 = self._x0, None
        with frozen(*self.trained[1:]):
            with kernels(self.device, self.autocast):
                sample = x0
                if sample is None or not sample.requires_grad:
                    sample = self.networks.generator(*self.batch.generator_inputs)
                losses, _ = generator_loss(self.networks, self.method, self.batch, sample, self.active)
            differentiate(losses, self.trained)


def _distillation_batch(
    config: DistillRun, teacher: Denoiser, generator: Generator, device: torch.device
) -> Batch:
    """Make up a batch with the fields that the run asks for."""
    batch = simulate_batch(config, teacher, device, config.real_source is not None, config.needs_pairs)
    noise = Noise(batch.u, batch.eps)
    own: dict[str, Any] = dict.fromkeys(config.own_noise, noise)
    shape, step = generator.noise_shape, None
    if config.generator.step_inputs is not None:
        shape, step = generator.step_noise_shape, torch.zeros(len(batch), dtype=torch.int64, device=device)
    z = torch.randn(len(batch), *shape, device=device)
    decided = generator.condition_of(z)
    cond = batch.cond if decided is None else dataclasses.replace(batch.cond, camera=decided.camera)
    return dataclasses.replace(batch, z=z, cond=cond, step=step, **own)


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
    actions: dict[str, Action] = {PREVIEW: partial(preview, generator, batch)}
    if config.shows_data and config.data is not None and not config.data.holds_latents:
        actions |= encoding(teacher, config.batch_size, batch.z.device)
    return actions


def checkpointed_blocks(term: object) -> Iterator[CheckpointedBlock]:
    """Yield a term's blocks that are always recomputed, whatever `activation_checkpointing` is."""
    if isinstance(term, nn.Module):
        for module in term.modules():
            if isinstance(module, CheckpointedBlock) and module.recompute is not None:
                yield module


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
    rows = preview_rows(generator, device)
    with kernels(device):
        generator.images(torch.randn(len(rows), *generator.noise_shape, device=device), batch.cond[rows])
