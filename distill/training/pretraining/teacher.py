"""The task `train_teacher`: denoising score matching on data (Karras et al. 2022, eq. 8)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.data import Captioned
from distill.data.encoded_prompts import EncodedPrompts
from distill.diffusion.noise_levels import NoiseLevels
from distill.diffusion.sampling import labels_of, sample_teacher, spread
from distill.networks.diffusers.source import PipelineSettings
from distill.networks.folder import (
    CONFIG,
    WEIGHTS,
    describe_model,
    meta_denoiser,
    read_description,
    resolve_folder,
    save_model,
)
from distill.networks.sizes import UNetSizes
from distill.networks.unet import UNet, UNetConfig
from distill.storage.files import write_json
from distill.storage.tensors import check_shapes, load_weights
from distill.training.batches import Batch, Batches
from distill.training.batches.batches import check_data
from distill.training.batches.previews import Previews, check_previews
from distill.training.device.compilation import compiled
from distill.training.distillation.losses import Losses, add_noise
from distill.training.logging import Clock
from distill.training.parallel.filling import whole_state
from distill.training.parallel.processes import Processes
from distill.training.pretraining.network import NetworkTraining
from distill.training.settings import TrainTeacherRun
from distill.types import DataSource, Denoiser, expand_like


class TeacherTraining(NetworkTraining[Denoiser]):
    """A diffusion model, of our own or of diffusers, in training: a `Task` of the trainer."""

    def __init__(self, config: TrainTeacherRun, processes: Processes, clock: Clock) -> None:
        data = config.data.load("train")
        network = build_teacher(config, data).to(processes.device)
        super().__init__("teacher", network, config, processes, clock)
        self.prompts: EncodedPrompts | None = None
        if network.prompt_encoder is not None:
            captions, encode = read_captions(config, data), network.prompt_encoder.encode
            self.prompts = EncodedPrompts(captions, encode, dropout=config.label_dropout)
        self.batches = Batches.of(config, network, data, processes, prompts=self.prompts)
        self.image_shape, self.label_count = network.pixel_shape, network.label_count
        self.previews = Previews(config.preview, network, self.prompts)
        self.noise_levels = config.noise_levels
        # Prompts are dropped with the batch, on the CPU, where they are read.
        self.label_dropout = config.label_dropout if self.prompts is None else 0.0
        self.loss = compiled(denoising_loss, config.compile, processes.device)

    def start(self, step: int) -> None:
        """Start with the batch of this step."""
        self.stream = self.batches.starting_at(step)

    def losses(self, batch: Batch) -> Losses:
        """Return the denoising loss of a micro-batch."""
        return {"teacher": self.loss(self.network, batch, self.noise_levels, self.label_dropout)}

    def sample(self, rows: Sequence[int]) -> Tensor:
        """Return images of the averaged network's sampler by their numbers, (n, c, h, w), on the CPU."""
        if self.prompts is None:
            cond = labels_of(rows, self.label_count)
        else:
            cond = self.prompts(spread(rows, len(self.prompts)))
        return sample_teacher(self.ema.average, rows, cond)

    def preview(self, rows: Sequence[int]) -> Tensor:
        """Return the images of these numbers that the run shows, (n, c, h, w), on the CPU."""
        shown = self.previews
        return sample_teacher(self.ema.average, shown.seeds(rows), shown.condition(rows))

    @property
    def preview_conditions(self) -> int:
        return self.previews.condition_count

    def save(self, folder: Path) -> None:
        """Write the averaged network for a checkpoint. All processes call it, and the main one writes."""
        state = whole_state(self.ema.average, self.processes)
        if state is not None:
            save_model(self.structure, folder, state)

    def export(self, folder: Path) -> None:
        """Write the averaged network, a network of diffusers as a pipeline.

        All processes call it, and the main one writes.
        """
        from distill.networks.diffusers.configured import ConfiguredNetwork

        if not isinstance(self.structure, ConfiguredNetwork):
            self.save(folder)
            return
        average = self.whole_average()
        if isinstance(average, ConfiguredNetwork):
            average.save_denoiser(folder)
            write_json(folder / CONFIG, describe_model(average))


def build_teacher(config: TrainTeacherRun, data: DataSource, on_meta: bool = False) -> Denoiser:
    """Build the untrained network of a run, which must fit the data; with `on_meta` without weights."""
    if config.pipeline is None:
        network = _build_own(config, data)
        if config.init_from is not None:
            _load_start(network, config.init_from, on_meta)
    else:
        network = _build_configured(config, config.pipeline, data, on_meta)
    if config.label_dropout > 0 and not (network.label_count or network.takes_text):
        raise UserError(
            f"label_dropout: is {config.label_dropout:g}, and the network has neither labels nor captions; "
            "expected 0"
        )
    check_previews(config.preview, network)
    return network


def _build_own(config: TrainTeacherRun, data: DataSource) -> Denoiser:
    torch.manual_seed(config.seed)
    network = build_unet(config.network, data.image_shape, data.label_count)
    check_data(data, network)
    return network


def _load_start(network: Denoiser, source: Path, on_meta: bool) -> None:
    """Give a network the weights of another teacher of the same sizes; with `on_meta` only compare them."""
    folder = resolve_folder(source)
    found = read_description(folder, "denoiser")["network"]["class"]
    if found != type(network).__name__:
        raise UserError(f"init_from: {source} holds a {found}; expected a {type(network).__name__}")
    if on_meta:
        shapes = {name: tuple(value.shape) for name, value in meta_denoiser(folder).state_dict().items()}
        check_shapes(network, shapes, folder)
    else:
        load_weights(network, folder / WEIGHTS)


def _build_configured(
    config: TrainTeacherRun, settings: PipelineSettings, data: DataSource, on_meta: bool
) -> Denoiser:
    from distill.networks.diffusers.configured import ConfiguredNetwork

    network = ConfiguredNetwork.build(settings, config.seed, on_meta)
    check_data(data, network)
    if network.takes_text:
        read_captions(config, data)
    if config.label_dropout > 0:
        network.require_unconditional()
    network.check_pass()
    return network.train().requires_grad_(True)


def read_captions(config: TrainTeacherRun, data: DataSource | None = None) -> list[str]:
    """Return all captions of a run's images, as prompts of a network that takes text."""
    data = config.data.load("train") if data is None else data
    if not isinstance(data, Captioned):
        raise UserError(
            f"data: {config.data.name} has no captions, with which a text-to-image teacher is trained; "
            "expected a source that has them, such as captioned_folder, or emoji with condition: captions"
        )
    return data.captions.texts


def build_unet(sizes: UNetSizes, image_shape: tuple[int, ...], label_count: int) -> UNet:
    """Build our own untrained network for images of this shape."""
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
    cond = batch.cond.drop(batch.u_fake < label_dropout) if label_dropout > 0 else batch.cond
    x_t, t, _, _ = add_noise(network.schedule, levels, x0, batch.noise)
    weight = expand_like(network.target_weight(t), x0)
    return (weight * (network(x_t, t, cond) - x0).square()).mean()
