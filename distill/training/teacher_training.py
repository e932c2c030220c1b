"""The task `train_teacher`: denoising score matching on data (Karras et al. 2022, eq. 8)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.diffusion.noise_levels import NoiseLevels
from distill.diffusion.sampling import labels_of, sample_teacher
from distill.networks.activation_checkpointing import checkpoint_activations
from distill.networks.folder import save_model
from distill.networks.sizes import UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.training.batches import Batch, Batches
from distill.training.device.compilation import begin_step, compile_networks, compiled
from distill.training.device.precision import autocast
from distill.training.device.preparation import prepare_networks
from distill.training.distillation.losses import Metrics
from distill.training.logging import Clock
from distill.training.optimization.ema import EMA, average_of
from distill.training.optimization.loss_scale import LossScale
from distill.training.optimization.updater import Updater, expect_last_backward
from distill.training.parallel.filling import whole_state
from distill.training.parallel.finite import FiniteCheck
from distill.training.parallel.processes import Processes
from distill.training.parallel.sharding import Sharding
from distill.training.settings import TrainTeacherRun
from distill.types import Denoiser, expand_like


class TeacherTraining:
    """A diffusion model of our own and its optimiser: a `Task` of the trainer."""

    def __init__(self, config: TrainTeacherRun, processes: Processes, clock: Clock) -> None:
        self.config, self.processes, self.clock = config, processes, clock
        data = config.data.load("train")
        torch.manual_seed(config.seed)
        self.network = build_teacher(config.network, data.image_shape, data.label_count).to(processes.device)
        if config.activation_checkpointing:
            checkpoint_activations(self.network)
        prepare_networks(config, [self.network])
        average = average_of(self.network)
        self.sharding = Sharding(config.sharding, processes)
        self.structure = copy.deepcopy(average) if self.sharding.is_on else average
        """The average as it was before it was sharded."""
        if self.sharding.is_on:
            for network in (self.network, average):
                self.sharding.shard(network)
        self.batches = Batches.of(config, self.network, data, processes)
        self.ema = EMA(self.network, config.ema, average)
        self.updaters = {
            "teacher": Updater("teacher", self.network, config.optimizer, config.steps, processes)
        }
        self.image_shape, self.label_count = self.network.image_shape, self.network.label_count
        self.modules: dict[str, nn.Module] = {"teacher": self.network}
        compile_networks([self.network], config.compile)
        self.loss = compiled(denoising_loss, config.compile, processes.device)
        self.finite = FiniteCheck(processes)
        self.scale = LossScale().to(processes.device) if config.precision == "fp16" else None
        if self.scale is not None:
            self.modules["teacher_scale"] = self.scale

    def start(self, step: int) -> None:
        """Start with the batch of this step."""
        self.stream = self.batches.starting_at(step)

    def update(self, step: int, detailed: bool) -> Metrics:
        """Make one update of the network."""
        with self.clock("data"):
            chunks = next(self.stream).split(self.config.micro_batch)
        begin_step(self.config.compile)
        loss_of_step = torch.zeros((), device=self.processes.device)
        with self.clock("teacher"):
            for chunk in chunks:
                with autocast(self.config.precision, self.processes.device):
                    loss = self.loss(self.network, chunk, self.config.noise_levels, self.config.label_dropout)
                self.finite.add_losses({"teacher": loss}, chunk.u)
                share = len(chunk) / (self.config.batch_size // self.processes.count)
                loss_of_step += share * loss.detach()
                scaled = loss if self.scale is None else self.scale(loss)
                if chunk is chunks[-1]:
                    expect_last_backward(list(self.updaters.values()))
                (share * scaled).backward()
                self.updaters["teacher"].accumulate()
            self.sharding.free(self.network, self.ema.average)
            norm = self.updaters["teacher"].update(step, self.scale)
            self.ema.update(self.updaters["teacher"].weights)
        if self.scale is None:
            self.finite.add_norm("teacher", norm)
            return {"loss/teacher": loss_of_step, "grad_norm/teacher": norm}
        self.finite.add_scale("teacher", self.scale.update())
        metrics = {"loss/teacher": loss_of_step, "grad_norm/teacher": self.scale.norm_made(norm)}
        return metrics | self.scale.metrics("teacher")

    def sample(self, rows: Sequence[int]) -> Tensor:
        """Return images of the averaged network's sampler by their numbers, (n, c, h, w), on the CPU."""
        return sample_teacher(self.ema.average, rows, labels_of(rows, self.label_count))

    def export(self, folder: Path) -> None:
        """Write the averaged network. All processes call it, and the main one writes."""
        state = whole_state(self.ema.average, self.processes)
        if state is not None:
            save_model(self.structure, folder, state)

    save = export

    def frozen_networks(self) -> list[nn.Module]:
        return []

    def tables(self) -> dict[str, Any]:
        return {}


def build_teacher(sizes: UNetSizes, image_shape: tuple[int, ...], label_count: int) -> UNet:
    """Build the untrained network for images of this shape."""
    channels, resolution, width = image_shape
    if resolution != width:
        raise UserError(f"data: images of {resolution}x{width}; expected square ones")
    try:
        return UNet(UNetConfig(resolution, channels, label_count, sizes))
    except ValueError as error:
        place = "network.attention" if str(error).startswith("attention") else "network.multipliers"
        raise UserError(f"{place}: {str(error).removeprefix('attention: ')}") from error


def denoising_loss(
    network: Denoiser, batch: Batch, levels: NoiseLevels, label_dropout: float = 0.0
) -> Tensor:
    """Return the weighted squared error per dimension of the prediction of the batch's real images: a scalar.

    Noise is added at the batch's quantiles of `levels`. A fraction `label_dropout` of the images loses its
    label.
    """
    x0 = batch.real
    if x0 is None:
        raise ValueError("training a teacher needs real images")
    # No fake score is trained here, so that u_fake is free to decide.
    cond = batch.cond.drop(batch.u_fake < label_dropout)
    t = levels.t(batch.u, network.schedule)
    alpha, sigma = expand_like(network.schedule.alpha(t), x0), expand_like(network.schedule.sigma(t), x0)
    x_t = alpha * x0 + sigma * batch.eps
    weight = expand_like(network.target_weight(t), x0)
    return (weight * (network(x_t, t, cond) - x0).square()).mean()
