"""The training of one network: the part that the tasks without a teacher share."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from distill.networks.computation.activation_checkpointing import checkpoint_activations
from distill.training.batches import Batch
from distill.training.device.compilation import begin_step, compile_networks
from distill.training.device.precision import autocast
from distill.training.device.preparation import prepare_networks
from distill.training.distillation.losses import Losses, Metrics
from distill.training.distillation.metrics import add_metrics
from distill.training.logging import Clock
from distill.training.optimization.ema import EMAs, average_of
from distill.training.optimization.loss_scale import LossScale
from distill.training.optimization.updater import Updater, expect_last_backward
from distill.training.parallel.filling import unsharded_copy
from distill.training.parallel.finite import FiniteCheck
from distill.training.parallel.processes import Processes
from distill.training.parallel.sharding import Sharding
from distill.training.settings import TrainAutoencoderRun, TrainTeacherRun
from distill.types import ImageModel

Network = TypeVar("Network", bound=ImageModel)


class NetworkTraining(Generic[Network]):
    """One network, its average and its optimiser: a `Task` of the trainer, but for losses and files.

    `name` is that of the network in checkpoints and statistics.
    """

    stream: Iterator[Batch]

    def __init__(
        self,
        name: str,
        network: Network,
        config: TrainTeacherRun | TrainAutoencoderRun,
        processes: Processes,
        clock: Clock,
    ) -> None:
        self.name, self.network = name, network
        self.processes, self.clock = processes, clock
        self.precision, self.compile = config.precision, config.compile
        self.micro_batch, self.batch_size = config.micro_batch, config.batch_size
        if config.activation_checkpointing:
            checkpoint_activations(network)
        prepare_networks(config, [network])
        average = average_of(network)
        self.sharding = Sharding(config.sharding, processes)
        self.structure = copy.deepcopy(average) if self.sharding.is_on else average
        """The average as it was before it was sharded."""
        if self.sharding.is_on:
            for sharded in (network, average):
                self.sharding.shard(sharded)
        self.ema = EMAs(network, [config.ema], config.batch_size, [average])
        self.updaters = {name: Updater(name, network, config.optimizer, config.steps, processes)}
        self.modules: dict[str, nn.Module] = {name: network}
        compile_networks([network], config.compile)
        self.finite = FiniteCheck(processes)
        self.scale = LossScale().to(processes.device) if config.precision == "fp16" else None
        if self.scale is not None:
            self.modules[f"{name}_scale"] = self.scale

    def losses(self, batch: Batch) -> Losses:
        """Return the losses of a micro-batch, whose sum is minimised."""
        raise NotImplementedError

    def update(self, step: int, detailed: bool) -> Metrics:
        """Make one update of the network."""
        with self.clock("data"):
            chunks = next(self.stream).split(self.micro_batch)
        begin_step(self.compile)
        metrics: Metrics = {}
        with self.clock(self.name):
            for chunk in chunks:
                with autocast(self.precision, self.processes.device):
                    losses = self.losses(chunk)
                self.finite.add_losses(losses, chunk.u)
                share = len(chunk) / (self.batch_size // self.processes.count)
                add_metrics(metrics, losses, {}, share)
                self._backward(share * torch.stack(list(losses.values())).sum(), chunk is chunks[-1])
            return metrics | self._step(step)

    def _backward(self, loss: Tensor, is_last: bool) -> None:
        if is_last:
            expect_last_backward(list(self.updaters.values()))
        (loss if self.scale is None else self.scale(loss)).backward()
        self.updaters[self.name].accumulate()

    def _step(self, step: int) -> Metrics:
        """Update the network and its average, and return the norm of the gradient."""
        self.sharding.free(self.network, self.ema.average)
        norm = self.updaters[self.name].update(step, self.scale)
        self.ema.update(self.updaters[self.name].weights)
        if self.scale is None:
            self.finite.add_norm(self.name, norm)
            return {f"grad_norm/{self.name}": norm}
        self.finite.add_scale(self.name, self.scale.update())
        return {f"grad_norm/{self.name}": self.scale.norm_made(norm)} | self.scale.metrics(self.name)

    def whole_average(self) -> Network | None:
        """Return the averaged network on the main process, None on others. All processes call it."""
        if not self.sharding.is_on:
            return self.ema.average if self.processes.is_main else None
        return unsharded_copy(copy.deepcopy(self.structure), self.ema.average, self.processes)

    def frozen_networks(self) -> list[nn.Module]:
        """Return the autoencoder and the text encoders of the network, if it has some."""
        return list(self.network.frozen_components().values())

    def tables(self) -> dict[str, Any]:
        return {}
