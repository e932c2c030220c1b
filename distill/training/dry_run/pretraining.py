"""Go through the step of a run that trains a teacher or an autoencoder, without data or optimisers."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from distill.diffusion.samplers import Heun
from distill.networks.diffusers.autoencoders.autoencoder import Autoencoder
from distill.training.batches import Batch
from distill.training.device.precision import autocast_type
from distill.training.device.preparation import prepare_networks
from distill.training.dry_run.meta_kernels import kernels
from distill.training.dry_run.outside_the_step import PREVIEW, encoding, preview_rows
from distill.training.dry_run.plan import ONE_PROCESS, Plan
from distill.training.dry_run.sharded import sharded_networks
from distill.training.dry_run.step import (
    AUTOENCODER_UPDATE,
    TEACHER_UPDATE,
    Action,
    SimulatedStep,
    differentiate,
    simulate_batch,
)
from distill.training.pretraining.autoencoder import autoencoder_losses, build_autoencoder
from distill.training.pretraining.teacher import denoising_loss
from distill.training.settings import TrainAutoencoderRun, TrainTeacherRun
from distill.types import Denoiser


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
        outside_the_step=_outside_the_step(config, network, batch),
        updates={TEACHER_UPDATE: update},
        repeats={TEACHER_UPDATE: 1},
        plan=plan,
        sharded=sharded_networks({"teacher": network}, plan, config.sharding),
        micro_batches=-(-config.batch_size // len(batch)),
    )


def _outside_the_step(config: TrainTeacherRun, network: Denoiser, batch: Batch) -> dict[str, Action]:
    actions: dict[str, Action] = {PREVIEW: partial(preview, network, batch)}
    if not config.data.holds_latents:
        actions |= encoding(network, config.batch_size, batch.z.device)
    return actions


@torch.no_grad()
def preview(network: Denoiser, batch: Batch) -> None:
    """Sample and decode as many preview images as a run makes at once, by steps of either order."""
    device = batch.z.device
    rows = preview_rows(network, device)
    z = torch.randn(len(rows), *network.image_shape, device=device)
    with kernels(device):
        network.decode(Heun(steps=2).solve(network, z, batch.cond[rows], lambda step: z))


@torch.no_grad()
def reconstruct(network: Autoencoder, device: torch.device) -> None:
    """Reconstruct as many preview images as a run makes at once."""
    with kernels(device):
        network.reconstruct(
            torch.zeros(len(preview_rows(network, device)), *network.image_shape, device=device)
        )


def meta_autoencoder_of(config: TrainAutoencoderRun) -> Autoencoder:
    """Build the autoencoder that a run trains on the meta device."""
    config = config.model_copy(update={"init_from": None})  # which has the same sizes
    return build_autoencoder(config, config.data.load("train"), on_meta=True).train()


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
        outside_the_step={PREVIEW: partial(reconstruct, network, device)},
        updates={AUTOENCODER_UPDATE: update},
        repeats={AUTOENCODER_UPDATE: 1},
        plan=plan,
        micro_batches=-(-config.batch_size // len(batch)),
    )
