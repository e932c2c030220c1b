"""Pipelines of diffusers: written, and held by the denoisers that share their parts."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from distill.config.errors import UserError
from distill.data.stored_prompts import StoredPrompts
from distill.diffusion.schedules import Flow
from distill.networks.computation.precision import cast_weights
from distill.networks.diffusers.autoencoders.codec import PipelineCodec
from distill.networks.diffusers.checks import check_parts
from distill.networks.diffusers.opening.quantization import is_quantized
from distill.networks.diffusers.opening.teacher import open_source
from distill.networks.diffusers.prompt_encoder import PipelinePromptEncoder
from distill.networks.diffusers.scheduler import check_steps, read_scheduler, read_shift, student_scheduler
from distill.networks.diffusers.source import PipelineSource
from distill.networks.quiet_libraries import quiet_transformers


@dataclasses.dataclass(frozen=True)
class _Settings:
    """The settings of a part without the part."""

    config: Any


class Pipeline:
    """A pipeline of diffusers, shared by denoisers: copying one of them copies its network only.

    Its weights are held in the type that `source` asks for; its codec and its prompt encoder take and return
    float32. `prompts` stands for text encoders that were left out when it was opened.
    """

    def __init__(self, pipe: Any, source: PipelineSource, prompts: StoredPrompts | None = None) -> None:
        self.pipe, self.source = pipe, source
        self.dtype: torch.dtype = getattr(torch, source.dtype)
        self.family = check_parts(pipe)
        self.schedule, self.prediction = read_scheduler(pipe.scheduler)
        self.config: Any = getattr(pipe, self.family.part).config
        vae = getattr(pipe, "vae", None)
        self.codec = None if vae is None else PipelineCodec(vae, self.dtype, self.family.ignores_latent_shift)
        height, width = self._choose_size(source.resolution)
        self.prompt_encoder: PipelinePromptEncoder | StoredPrompts | None = prompts
        self.is_whole = prompts is None
        """No part was left out, or dropped."""
        if prompts is None and self.family.inputs is not None:
            self.prompt_encoder = PipelinePromptEncoder(pipe, self.family)
        channels = self.config[self.family.channel_settings[0]] if self.codec is None else self.codec.channels
        self.image_shape: tuple[int, ...] = (channels, height, width)
        self.pixel_shape: tuple[int, ...] = self.image_shape
        if self.codec is not None:
            self.pixel_shape = self.codec.pixel_shape(self.image_shape)
        self.label_count, self.null_label = self._choose_labels(source.null_label)
        self.embedded_guidance = self._choose_guidance(source.embedded_guidance)
        self.time_factor = self.family.time_factor(self.config)
        if isinstance(self.schedule, Flow):  # t is 1 at the scheduler's last step
            self.schedule = Flow(self._shift())
            self.time_factor *= pipe.scheduler.config.num_train_timesteps
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
                if not is_quantized(part):  # diffusers opened its other weights in this type
                    cast_weights(part, self.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pipeline:
        """Copies of a network share their pipeline."""
        return self

    def to(self, device: torch.device) -> None:
        """Move the autoencoder and the text encoders."""
        for holder in (self.codec, self.prompt_encoder):
            if holder is not None:
                for part in holder.components().values():
                    part.to(device)

    def drop_encoder(self) -> None:
        """Free the half of the autoencoder that encodes images."""
        if self.codec is not None:
            self.codec.drop_encoder()
            self.is_whole = False

    def components(self) -> dict[str, Any]:
        """Return the pipeline's parts and settings; of the denoiser, which copies hold, the settings only."""
        parts = {
            name: part
            for name, part in self.pipe.components.items()
            if part is not None and name != self.family.part
        }
        return {**parts, self.family.part: _Settings(self.config), "pipeline": _Settings(self.pipe.config)}

    def model_timestep(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Convert a time of the schedule to the network's units."""
        return t * self.time_factor

    def student_scheduler(self, times: Sequence[float]) -> Any:
        """Return a scheduler whose steps are at these times, as far as it can take them."""
        return student_scheduler(self.pipe.scheduler, self.schedule, self.prediction, times)

    def check_steps(self, times: Sequence[float]) -> None:
        """Raise UserError if no scheduler of diffusers takes a student's steps at these times."""
        if self.family.has_own_times and len(times) > 1:
            raise UserError(
                f"generator.steps: is {len(times)}; expected 1: {type(self.pipe).__name__} gives its network "
                "times of its own, with which further steps could not be exported"
            )
        check_steps(self.student_scheduler(times), self.schedule, times)

    def save(self, network: nn.Module, times: Sequence[float], folder: Path) -> None:
        """Write a pipeline with this network, whose call with as many steps enters it at these times."""
        network = self.family.exported(network, self.embedded_guidance)
        is_as_stored = self.dtype == torch.float32 and self._has_all_weights()
        pipe = copy.copy(self.pipe) if is_as_stored else self._reopen(network)
        parts = {self.family.part: network, **dict.fromkeys(self.family.guiders)}
        pipe.register_modules(**parts, scheduler=self.student_scheduler(times))
        with quiet_transformers():
            pipe.save_pretrained(folder)

    def save_denoiser(self, network: nn.Module, folder: Path) -> None:
        """Write a pipeline with this network and the pipeline's own scheduler."""
        pipe = copy.copy(self.pipe)
        pipe.register_modules(**{self.family.part: network})
        with quiet_transformers():
            pipe.save_pretrained(folder)

    def _has_all_weights(self) -> bool:
        """Tell whether this process holds its other parts whole.

        None is left out, sharded, or on the meta device.
        """
        if not self.is_whole:
            return False
        weights = [
            weight
            for name, part in self.pipe.components.items()
            if isinstance(part, nn.Module) and name != self.family.part
            for weight in part.parameters()
        ]
        return not any(weight.is_meta or isinstance(weight, DTensor) for weight in weights)

    def _reopen(self, network: nn.Module) -> Any:
        """Open the pipeline again around this network, its other parts in the precision of their files."""
        source = self.source.model_copy(update={"dtype": "float32", "quantization": None})
        return open_source(source, **{self.family.part: network})

    def _choose_size(self, resolution: int | None) -> tuple[int, int]:
        """Return height and width of x_t, for images of `resolution` or of the pipeline's own size."""
        size: Any = self.family.default_size or self.config.get("sample_size")
        if resolution is not None:
            size = self._resize(resolution, size)
        if size is None:
            raise UserError("teacher.resolution: the pipeline names none; expected pixels")
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return height, width

    def _resize(self, resolution: int, own_size: Any) -> int:
        """Return the side of x_t for images of this resolution in pixels.

        It is written into a U-Net's configuration, so that the pipeline's default call uses it. A transformer
        derives its positions from the size in its configuration, so that its pipeline must be called with
        height and width.
        """
        factor = 1 if self.codec is None else self.codec.factor
        if self.family.is_unet:
            smallest = factor * 2 ** (len(self.config.block_out_channels) - 1)
        else:
            smallest = factor * self.family.patch(self.config) * self.family.packing
        if resolution % smallest:
            raise UserError(
                f"teacher.resolution: {resolution} is not divisible by {smallest}, which the network needs"
            )
        size = resolution // factor
        if self.family.fixed_size and size != own_size:
            raise UserError(
                f"teacher.resolution: is {resolution}; expected {own_size * factor} or null: "
                "this pipeline makes images of one size"
            )
        sizes = getattr(self.pipe, "resolutions", None)
        if sizes is not None and (resolution, resolution) not in sizes:
            expected = " or ".join(str(width) for width, height in sizes if width == height)
            raise UserError(
                f"teacher.resolution: is {resolution}; expected {expected} or null: "
                "this pipeline makes no other square images"
            )
        if self.family.is_unet:
            self.pipe.unet.register_to_config(sample_size=size)
        return size

    def _shift(self) -> float:
        """Return the factor by which the pipeline has its scheduler raise sigma/alpha at this size."""
        if self.family.shift is not None:
            return self.family.shift(self)
        _, height, width = self.image_shape
        side = self.family.patch(self.config) * self.family.packing
        return read_shift(self.pipe.scheduler, (height // side) * (width // side))

    def _choose_labels(self, null_label: int | None) -> tuple[int, int | None]:
        """Return the number of labels, and the class that means no label."""
        classes = self.config.get(self.family.labels) or 0
        if self.family.has_null_label:
            if null_label is None:
                null_label = classes
            classes += 1
        if null_label is None:
            return classes, None
        if null_label != classes - 1:
            expected = f"null, or the last of the network's {classes} classes"
            if not classes:
                expected = "null: the network has no classes"
            raise UserError(f"teacher.null_label: is {null_label}; expected {expected}")
        return null_label, null_label

    def _choose_guidance(self, scale: float | None) -> float | None:
        """Return the guidance scale that a guidance-distilled network takes as input; None for others."""
        if not self.config.get("guidance_embeds"):
            if scale is not None:
                raise UserError("teacher.embedded_guidance: the network is told no guidance; expected null")
            return None
        if scale is not None:
            return scale
        return inspect.signature(type(self.pipe).__call__).parameters["guidance_scale"].default
