"""Settings of the tasks that train on data alone. The docstring under a field is its help text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from distill.config.settings import choice_of
from distill.diffusion.noise_levels import LogNormal, NoiseLevels
from distill.networks.diffusers.source import PipelineSettings
from distill.networks.sizes import UNetSizes
from distill.training.optimization.average_settings import Average
from distill.training.optimization.settings import OptimizerSettings
from distill.training.settings.run import RunSettings


class TrainTeacherRun(RunSettings):
    """Train a diffusion teacher on data."""

    task: Literal["train_teacher"]
    """Task of the run: `distill`, `train_teacher` or `train_autoencoder`."""
    data: choice_of("data.sources")  # type: ignore[valid-type]
    """Source of the images to train on, with captions for a teacher that takes text. If an image has several,
    one is drawn each time."""
    network: UNetSizes = UNetSizes()
    """Sizes of the U-Net of this project that is trained, unless `pipeline` describes another network."""
    pipeline: PipelineSettings | None = None
    """Pipeline of diffusers whose denoiser is trained, such as a latent text-to-image model, and as which it
    is exported. null trains the U-Net that `network` describes."""
    init_from: Path | None = None
    """Start from the weights of this teacher, a run of `train_teacher`, a checkpoint or an export, with a
    U-Net of the same sizes; null starts from random ones. A pipeline has its own `pipeline.init_from`."""
    noise_levels: NoiseLevels = LogNormal()
    """Distribution of the noise levels at which the teacher is trained. The default is EDM's."""
    label_dropout: float = Field(0.0, ge=0, lt=1)
    """Fraction of images shown without their label or caption, so that the teacher can be guided; 0.1 is
    usual, and 0 trains a teacher without guidance."""
    optimizer: OptimizerSettings = OptimizerSettings(betas=(0.9, 0.999))
    """Optimiser of the teacher."""
    ema: Average = 0.999
    """Decay of the exponential moving average (EMA) of the teacher's weights, per step. The exported teacher
    is the average. A larger value averages over more steps, about 1 / (1 - ema). {half_life_images: 5e5,
    rampup: 0.05} gives it in images, as EDM does."""

    @model_validator(mode="after")
    def _has_one_network(self) -> TrainTeacherRun:
        if self.pipeline is not None and self.network != UNetSizes():
            raise ValueError("pipeline: is given beside 'network'; expected one of them")
        if self.pipeline is not None and self.init_from is not None:
            raise ValueError("init_from: starts the U-Net of 'network'; expected pipeline.init_from")
        return self


class TrainAutoencoderRun(RunSettings):
    """Train on data an autoencoder, in whose latents a teacher works."""

    task: Literal["train_autoencoder"]
    """Task of the run: `distill`, `train_teacher` or `train_autoencoder`."""
    data: choice_of("data.sources")  # type: ignore[valid-type]
    """Source of the images to train on."""
    network: dict[str, Any]
    """Configuration of the `AutoencoderKL` of diffusers that is trained, such as {block_out_channels: [32,
    64, 128], layers_per_block: 1, latent_channels: 8}. Each level after the first halves the height of the
    latents. The images decide `in_channels`, `out_channels` and `sample_size`. Types of blocks that are not
    given are those of Stable Diffusion's."""
    init_from: Path | None = None
    """Start from the weights of this autoencoder of the same sizes, a run of `train_autoencoder`, a
    checkpoint, or a folder of an `AutoencoderKL` of diffusers; null starts from random ones."""
    reconstruction: Literal["l1", "l2"] = "l1"
    """Error of the reconstruction per value of the image: absolute (l1), the default, which gives sharper
    edges, or squared (l2)."""
    kl_weight: float = Field(1e-6, ge=0)
    """Weight of the KL divergence of an image's latents from N(0, I), with the error summed over the image.
    The default is Stable Diffusion's. A larger one makes latents smoother, which a teacher learns more
    easily, and reconstructions coarser."""
    optimizer: OptimizerSettings = OptimizerSettings(betas=(0.9, 0.999))
    """Optimiser of the autoencoder."""
    ema: Average = 0.999
    """Decay of the exponential moving average (EMA) of the autoencoder's weights, per step. The exported
    autoencoder is the average. A larger value averages over more steps, about 1 / (1 - ema). A half-life in
    images, {half_life_images: 5e5}, does not depend on the batch."""

    @model_validator(mode="after")
    def _is_whole(self) -> TrainAutoencoderRun:
        if self.data.holds_latents:
            raise ValueError(
                "data: latents are no images, which an autoencoder is trained on; expected images"
            )
        if self.preview.prompts is not None or self.preview.labels is not None:
            raise ValueError("preview: an autoencoder shows reconstructions; expected count or seed alone")
        if self.sharding.is_on:
            raise ValueError(
                f"sharding.strategy: is {self.sharding.strategy}; expected none, since every process holds "
                "the whole autoencoder"
            )
        return self
