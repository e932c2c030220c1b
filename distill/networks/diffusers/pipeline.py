"""What a diffusers pipeline has besides its denoiser: scheduler, image autoencoder and text encoders, and how it is opened and written."""

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

from distill.config.errors import UserError
from distill.diffusion.schedules import Flow
from distill.networks.diffusers.codec import PipelineCodec
from distill.networks.diffusers.families import FAMILIES, Family
from distill.networks.diffusers.prompt_encoder import PipelinePromptEncoder
from distill.networks.diffusers.scheduler import check_steps, read_scheduler, student_scheduler
from distill.networks.diffusers.source import PipelineSource
from distill.networks.folder import PIPELINE, is_own_pipeline
from distill.storage.files import read_mapping

AUTOENCODERS = ("AutoencoderKL", "AutoencoderDC")


def open_pipeline(source: str, flag: str, **settings: Any) -> Any:
    """A pipeline of diffusers, by folder or hub name; `settings` go to `from_pretrained`. Raises UserError, naming the flag, where there is none."""
    from diffusers import DiffusionPipeline

    if Path(source).is_dir():
        check_folder(Path(source), flag)
    settings["use_safetensors"] = True  # weights in pickles are refused: opening them could run code
    try:
        folder = source if Path(source).is_dir() else DiffusionPipeline.download(source, **settings)
        return DiffusionPipeline.from_pretrained(source, **{**left_out_parts(Path(folder)), **settings})
    except (OSError, ValueError, AttributeError, ImportError) as error:
        raise UserError(f"{flag}: {source} cannot be opened as a diffusers pipeline ({error})") from error


def left_out_parts(folder: Path) -> dict[str, None]:
    """Text encoders and tokenizers that a pipeline was saved without, such as T5 of Stable Diffusion 3: diffusers wants to be told of each."""
    import diffusers

    index = read_mapping(folder / PIPELINE)
    kind = getattr(diffusers, str(index.get("_class_name")), None)
    parts = inspect.signature(kind).parameters if isinstance(kind, type) else {}
    return {
        name: None
        for name in parts
        if name.startswith(("text_encoder", "tokenizer")) and index.get(name) in (None, [None, None])
    }


def check_folder(folder: Path, flag: str) -> None:
    """Raises UserError, naming the flag, where a folder is no pipeline whose classes diffusers has."""
    if is_own_pipeline(folder):
        raise UserError(
            f"{flag}: {folder} is a student's export of a network that diffusers does not have; expected a pipeline that it has"
        )
    if not (folder / PIPELINE).is_file():
        raise UserError(f"{flag}: {folder} holds no {PIPELINE}; expected the folder of a diffusers pipeline")


@dataclasses.dataclass(frozen=True)
class _Settings:
    """The settings of a part without the part."""

    config: Any


class Pipeline:
    """A diffusers pipeline, opened for the denoisers that share it: copies of one of them copy its network alone.

    All its weights are held in the type that `source` asks for; its encoders take and return float32.
    """

    def __init__(self, pipe: Any, source: PipelineSource) -> None:
        self.pipe, self.source, self.dtype = pipe, source, getattr(torch, source.dtype)
        self.family = check_parts(pipe)
        self.schedule, self.prediction = read_scheduler(pipe.scheduler)
        self.config: Any = getattr(pipe, self.family.part).config
        vae = getattr(pipe, "vae", None)
        self.codec = None if vae is None else PipelineCodec(vae, self.dtype)
        height, width = self._choose_size(source.resolution)
        self.prompt_encoder = None if self.family.inputs is None else PipelinePromptEncoder(pipe, self.family)
        channels = self.config.in_channels if self.codec is None else self.codec.channels
        self.image_shape: tuple[int, ...] = (channels, height, width)
        self.pixel_shape = (
            self.image_shape if self.codec is None else self.codec.pixel_shape(self.image_shape)
        )
        self.label_count, self.null_label = self._choose_labels(source.null_label)
        self.embedded_guidance = self._choose_guidance(source.embedded_guidance)
        self.time_factor = self.family.time_factor(self.config)
        if isinstance(self.schedule, Flow):  # t is 1 at the scheduler's last step
            self.time_factor *= pipe.scheduler.config.num_train_timesteps
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                cast_weights(part.eval().requires_grad_(False), self.dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pipeline:
        return self

    def to(self, device: torch.device) -> None:
        """Move the autoencoder and the text encoders."""
        for held in (self.codec, self.prompt_encoder):
            for part in held.components().values() if held is not None else ():
                part.to(device)

    def components(self) -> dict[str, Any]:
        """Return the pipeline's parts and settings; of the denoiser, whose weights copies hold, the settings only."""
        parts = {
            name: part
            for name, part in self.pipe.components.items()
            if part is not None and name != self.family.part
        }
        return {**parts, self.family.part: _Settings(self.config), "pipeline": _Settings(self.pipe.config)}

    def model_timestep(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """Return a time of the schedule in the network's units."""
        return t * self.time_factor

    def student_scheduler(self, times: Sequence[float]) -> Any:
        """Return a scheduler whose steps are at these times, as far as it can take them."""
        return student_scheduler(self.pipe.scheduler, self.schedule, self.prediction, times)

    def check_steps(self, times: Sequence[float]) -> None:
        """Raise UserError if no scheduler of diffusers takes a student's steps at these times."""
        check_steps(self.student_scheduler(times), self.schedule, times)

    def save(self, network: nn.Module, times: Sequence[float], folder: Path) -> None:
        """Write a pipeline with this network, whose call with as many steps enters it at these times."""
        network = self.family.exported(network, self.embedded_guidance)
        pipe = copy.copy(self.pipe) if self.dtype == torch.float32 else self._reopen(network)
        pipe.register_modules(**{self.family.part: network}, scheduler=self.student_scheduler(times))
        pipe.save_pretrained(folder)

    def _reopen(self, network: nn.Module) -> Any:
        """Open the pipeline again around this network, with its other parts in the precision of their files."""
        place = {"revision": self.source.revision, "variant": self.source.variant}
        return open_pipeline(self.source.path, "teacher.path", **place, **{self.family.part: network})

    def _choose_size(self, resolution: int | None) -> tuple[int, int]:
        """Height and width as the network has them. Another than its own is written into a U-Net's configuration, for the pipeline's default call;
        a transformer's positions depend on what stands there, so that its pipeline is to be called with height and width."""
        factor = 1 if self.codec is None else self.codec.factor
        is_unet = self.family.part == "unet"
        size: Any = self.config.get("sample_size") or self.family.default_size
        if resolution is not None:
            levels = len(self.config.block_out_channels) - 1 if is_unet else 0
            smallest = factor << levels if is_unet else factor * self.config.patch_size * self.family.packing
            if resolution % smallest:
                raise UserError(
                    f"teacher.resolution: {resolution} is not divisible by {smallest}, which the network needs"
                )
            if self.family.fixed_size and resolution // factor != size:
                raise UserError(
                    f"teacher.resolution: is {resolution}; expected {size * factor} or null: this pipeline makes images of one size"
                )
            size = resolution // factor
            if is_unet:
                self.pipe.unet.register_to_config(sample_size=size)
        if size is None:
            raise UserError("teacher.resolution: the pipeline names none; expected pixels")
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return height, width

    def _choose_labels(self, null_label: int | None) -> tuple[int, int | None]:
        """How many labels there are, and the class that means none."""
        classes = self.config.get(self.family.labels) or 0
        if self.family.has_null_label:
            classes, known = classes + 1, classes
            null_label = known if null_label is None else null_label
        if null_label is not None and null_label != classes - 1:
            raise UserError(
                f"teacher.null_label: is {null_label}; expected null, or the last of the network's {classes} classes"
            )
        return (classes if null_label is None else null_label), null_label

    def _choose_guidance(self, scale: float | None) -> float | None:
        """What a guidance-distilled network is told; None for others."""
        if not self.config.get("guidance_embeds"):
            if scale is not None:
                raise UserError("teacher.embedded_guidance: the network is told no guidance; expected null")
            return None
        return (
            inspect.signature(type(self.pipe).__call__).parameters["guidance_scale"].default
            if scale is None
            else scale
        )


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Hold a network's weights in `dtype`, and in float32 what else it has, since rounded frequencies would tell other positions and times."""
    for tensors, kind in ((network.parameters(), dtype), (network.buffers(), torch.float32)):
        for tensor in tensors:
            tensor.data = tensor.data.to(kind) if tensor.is_floating_point() else tensor.data


def check_parts(pipe: Any) -> Family:
    """The family of a pipeline's denoiser. Raises UserError, naming the first part that is unknown here."""
    name, parts = type(pipe).__name__, (getattr(pipe, part, None) for part in ("unet", "transformer"))
    network: Any = next((part for part in parts if part is not None), None)
    kind = "none" if network is None else type(network).__name__
    if kind not in FAMILIES:
        raise UserError(
            f"teacher.path: {name}'s denoiser, {kind}, is unknown here; expected one of: {', '.join(FAMILIES)}"
        )
    family, config = FAMILIES[kind], network.config
    vae: Any = getattr(pipe, "vae", None) or getattr(pipe, "vqvae", None)
    if vae is not None and type(vae).__name__ not in AUTOENCODERS:
        raise UserError(
            f"teacher.path: {name}'s autoencoder, {type(vae).__name__}, is unknown here; expected one of: {', '.join(AUTOENCODERS)}"
        )
    latents = config.in_channels if vae is None else vae.config.latent_channels * family.packing**2
    if config.in_channels != latents:
        raise UserError(
            f"teacher.path: {name}'s network takes {config.in_channels} channels; expected {latents}, as its images have"
        )
    if family.inputs is not None and not hasattr(pipe, "encode_prompt"):
        raise UserError(f"teacher.path: {name} encodes no prompts, which its {kind} needs")
    if config.get("addition_embed_type") not in (None, "text_time"):
        raise UserError(
            f"teacher.path: addition_embed_type '{config.addition_embed_type}' of {name} is unknown here; expected none or text_time"
        )
    for key in ("class_embed_type", "num_class_embeds") if family.inputs is not None else ():
        _refuse_setting(name, config, key)
    for key in (
        "encoder_hid_dim_type",
        "time_cond_proj_dim",
        *(("guidance_embeds",) if family.packing == 1 else ()),
    ):
        _refuse_setting(name, config, key)
    return family


def _refuse_setting(name: str, config: Any, key: str) -> None:
    if config.get(key):
        raise UserError(f"teacher.path: the network of {name} has {key}, which is unknown here")
