"""The task `train_autoencoder`: reconstruction of images with latents near N(0, I) (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.diffusion.sampling import max_batch_size, spread
from distill.networks.diffusers.autoencoders.autoencoder import Autoencoder, find_start
from distill.networks.folder import CONFIG, WEIGHTS
from distill.storage.files import write_json
from distill.storage.tensors import save_tensors
from distill.training.batches import Batch, Batches, check_split
from distill.training.batches.reading import read_images
from distill.training.device.compilation import compiled
from distill.training.distillation.losses import Losses
from distill.training.logging import Clock
from distill.training.parallel.processes import Processes
from distill.training.pretraining.network import NetworkTraining
from distill.training.settings import TrainAutoencoderRun
from distill.types import DataSource

MAX_MEASURED = 50_000
"""Maximum number of images whose latents decide the scaling factor."""


class AutoencoderTraining(NetworkTraining[Autoencoder]):
    """An autoencoder in training: a `Task` of the trainer. Its samples are reconstructions."""

    label_count = 0

    def __init__(self, config: TrainAutoencoderRun, processes: Processes, clock: Clock) -> None:
        check_split(config.batch_size, processes.count)
        self.data = config.data.load("train")
        network = build_autoencoder(config, self.data)
        super().__init__("autoencoder", network.to(processes.device), config, processes, clock)
        self.image_shape = network.image_shape
        self.first_preview = config.preview.seed
        self.reconstruction, self.kl_weight = config.reconstruction, config.kl_weight
        self.batches = Batches(
            network.latent_shape,
            0,
            self.data,
            config.batch_size,
            config.seed,
            processes.device,
            processes.index,
            processes.count,
            config.data_workers,
            compiled=config.compile != "none",
        )
        self.loss = compiled(autoencoder_losses, config.compile, processes.device)

    def start(self, step: int) -> None:
        """Start with the batch of this step."""
        self.stream = self.batches.starting_at(step)

    def losses(self, batch: Batch) -> Losses:
        """Return the losses of a micro-batch."""
        return self.loss(self.network, batch, self.reconstruction, self.kl_weight)

    @torch.no_grad()
    def sample(self, rows: Sequence[int]) -> Tensor:
        """Return the averaged network's reconstructions of the data, (n, c, h, w), on the CPU.

        Image i is the reconstruction of an image of the data that its number decides.
        """
        chosen = spread(rows, len(self.data))
        parts = chosen.split(max_batch_size(self.image_shape))
        average, device = self.ema.average, self.processes.device
        return torch.cat(
            [average.reconstruct(read_images(self.data, part).to(device)).cpu() for part in parts]
        )

    def preview(self, rows: Sequence[int]) -> Tensor:
        """Return the reconstructions that the run shows; `preview.seed` moves the choice of images."""
        return self.sample([self.first_preview + row for row in rows])

    @property
    def preview_conditions(self) -> int:
        return 0

    def save(self, folder: Path) -> None:
        """Write the averaged network for a checkpoint. All processes call it, and the main one writes."""
        average = self.whole_average()
        if average is not None:
            write_json(folder / CONFIG, average.describe())
            save_tensors(folder / WEIGHTS, average.state_dict())

    def export(self, folder: Path) -> None:
        """Write the averaged network as diffusers opens it. All processes call it; the main one writes."""
        average = self.whole_average()
        if average is not None:
            average.save_pretrained(folder, scaling_factor(average, self.data, self.processes.device))


def build_autoencoder(config: TrainAutoencoderRun, data: DataSource, on_meta: bool = False) -> Autoencoder:
    """Build the autoencoder of a run as it is before its first step; with `on_meta` without weights."""
    network = Autoencoder.build(config.network, data.image_shape, config.seed, on_meta)
    if config.init_from is not None:
        find_start(config.init_from)
        if not on_meta:
            network.start_from(config.init_from)
    return network


def autoencoder_losses(
    network: Autoencoder, batch: Batch, reconstruction: Literal["l1", "l2"], kl_weight: float
) -> Losses:
    """Return the reconstruction's error and the weighted KL divergence, both per value of the image.

    Their ratio is that of Rombach et al. (2022), who sum both over an image.
    """
    images = batch.real
    if images is None:
        raise ValueError("training an autoencoder needs real images")
    decoded, kl = network(images, batch.eps)
    error = decoded - images
    distance = error.abs() if reconstruction == "l1" else error.square()
    return {"reconstruction": distance.mean(), "kl": kl_weight * kl.mean() / images[0].numel()}


@torch.no_grad()
def scaling_factor(network: Autoencoder, data: DataSource, device: torch.device) -> float:
    """Return 1 / standard deviation of the latents of the data, over all images, channels and places.

    Of more than `MAX_MEASURED` images, as many are taken, evenly spread. The images are read in order, so
    that the factor is the same each time.
    """
    count = min(len(data), MAX_MEASURED)
    rows = torch.arange(count) * len(data) // count
    total = squares = torch.zeros((), dtype=torch.float64, device=device)
    values = 0
    for part in rows.split(max_batch_size(network.image_shape)):
        latents = network.latents(read_images(data, part).to(device)).double()
        total, squares = total + latents.sum(), squares + latents.square().sum()
        values += latents.numel()
    variance = (squares / values - (total / values).square()).item()
    if not variance > 0:
        raise UserError("data: all latents are equal, so that no scaling factor gives them unit variance")
    return variance**-0.5
