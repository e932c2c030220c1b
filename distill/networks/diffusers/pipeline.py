"""What a diffusers pipeline has besides its denoiser: scheduler, image autoencoder and text encoders, and how it is opened and written."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.config.errors import UserError
from distill.diffusion.schedules import Flow
from distill.networks.diffusers.autoencoder import Latents
from distill.networks.diffusers.families import FAMILIES, Family
from distill.networks.diffusers.scheduler import ALL_PREDICTION, read_scheduler, read_signal
from distill.networks.diffusers.source import PipelineSource
from distill.networks.folder import PIPELINE, is_own_pipeline
from distill.networks.identity import part_sha256
from distill.storage.files import read_mapping
from distill.types import Condition, Text

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
    """A diffusers pipeline, opened for the denoisers that share it: a copy of one of them copies its network alone.

    `source` are the settings that open it. All its weights are held in `dtype`; what passes in and out of its encoders is of float32. Raises
    UserError for kinds of parts that are unknown here, and for settings that do not fit it.
    """

    def __init__(self, pipe: Any, source: PipelineSource) -> None:
        dtype = getattr(torch, source.dtype)
        self.pipe, self.source, self.dtype = pipe, source, dtype
        self.family = check_parts(pipe)
        self.schedule, self.prediction = read_scheduler(pipe.scheduler)
        self.config: Any = getattr(pipe, self.family.part).config
        vae = getattr(pipe, "vae", None)
        self.latents = None if vae is None else Latents(vae, dtype)
        self.takes_text = self.family.inputs is not None
        factor = 1 if self.latents is None else self.latents.factor
        height, width = self._choose_size(source.resolution, factor)
        self.image_shape: tuple[int, ...] = (
            self.config.in_channels if self.latents is None else self.latents.channels,
            height,
            width,
        )
        self.pixel_shape: tuple[int, ...] = (
            self.config.in_channels if self.latents is None else self.latents.image_channels,
            height * factor,
            width * factor,
        )
        self.label_count, self.null_label = self._choose_labels(source.null_label)
        self.embedded_guidance = self._choose_guidance(source.embedded_guidance)
        self.time_factor = self.family.time_factor(self.config)
        if isinstance(self.schedule, Flow):  # whose t is 1 at the last of them
            self.time_factor *= pipe.scheduler.config.num_train_timesteps
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                cast_weights(part.eval().requires_grad_(False), dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pipeline:
        return self

    def to(self, device: torch.device) -> None:
        """Move the autoencoder and the text encoders."""
        for part in self.frozen_components().values():
            part.to(device)

    def components(self) -> dict[str, Any]:
        """The pipeline's parts, its settings, and of the denoiser, whose weights copies hold, the settings alone."""
        parts = {
            name: part
            for name, part in self.pipe.components.items()
            if part is not None and name != self.family.part
        }
        return {**parts, self.family.part: _Settings(self.config), "pipeline": _Settings(self.pipe.config)}

    def frozen_components(self) -> dict[str, nn.Module]:
        """The autoencoder and the text encoders."""
        return {
            name: part
            for name, part in self.pipe.components.items()
            if isinstance(part, nn.Module) and name.startswith(("vae", "text_encoder"))
        }

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """The latents' mean, in the units in which the network has them; the images themselves where there are no latents."""
        return images if self.latents is None else self.latents.encode(images)

    def decode(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """Images of latents."""
        return x0 if self.latents is None else self.latents.decode(x0)

    def model_timestep(self, t: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """A time of the schedule as the network is told it."""
        return t * self.time_factor

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Prompts by all text encoders of the pipeline, and what it takes for none."""
        if not self.takes_text:
            raise ValueError(f"{type(self.pipe).__name__} takes no prompts")
        encoded = self._encode(prompts)
        given = {name: value for name, value in encoded.items() if not name.startswith("no ")}
        for name, shape in self.text_shapes().items():
            found = given[name].shape[-1] if name != "mask" and name in given else shape[-1]
            if found != shape[-1]:
                raise UserError(
                    f"teacher.path: its text encoders give {name} of {found} numbers; expected {shape[-1]}: a text encoder is missing"
                )
        unconditional = (
            {name: encoded[f"no {name}"][:1] for name in given}
            if "no tokens" in encoded
            else self._encode([""])
        )
        return Condition(text=Text(given, unconditional))

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Everything that the pipeline's `encode_prompt` returns, by our names, numbers as float32."""
        device = next(
            part.device
            for name, part in self.pipe.components.items()
            if name.startswith("text_encoder") and part is not None
        )
        encoded = self.pipe.encode_prompt(
            **{**self._prompt_settings(), "prompt": list(prompts), "device": device}
        )
        parts = zip(self.family.encoded, encoded, strict=False)
        return {
            name: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
            for name, value in parts
        }

    def _prompt_settings(self) -> dict[str, Any]:
        """What the pipeline's `encode_prompt` is given besides prompts: as in a call of the pipeline with nothing but a prompt, guided."""
        from diffusers.utils import is_bs4_available, is_ftfy_available

        own, call = (
            inspect.signature(function).parameters
            for function in (self.pipe.encode_prompt, type(self.pipe).__call__)
        )
        settings = {name: call[name].default for name in own if name in call}
        if "do_classifier_free_guidance" in own:
            settings["do_classifier_free_guidance"] = True
        if settings.get("clean_caption"):  # as the pipeline does it, but for a warning with each prompt
            settings["clean_caption"] = is_bs4_available() and is_ftfy_available()
        return settings

    def prompt_encoder_sha256(self) -> str:
        """Hash of the encoders' weights and settings, the tokenizers' words and rules, and what the pipeline's class does with them."""
        pipe = self.pipe
        digest = hashlib.sha256(
            f"{type(pipe).__name__} {pipe.config.get('force_zeros_for_empty_prompt')} {self._prompt_settings()}".encode()
        )
        for name, part in sorted(pipe.components.items()):
            if name.startswith(("tokenizer", "text_encoder")) and part is not None:
                digest.update(f"{name} {part_sha256(part)}".encode())
        return digest.hexdigest()

    def text_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of one encoded prompt, by the network's configuration: CLIP's 77 tokens, and as many of T5's or Gemma's as the pipeline asks for."""
        config, tokens = self.config, self._prompt_settings().get("max_sequence_length", 0)
        width = (
            config.get("caption_channels") or config.get("joint_attention_dim") or config.cross_attention_dim
        )
        pooled = config.get("pooled_projection_dim") or 0
        if config.get("addition_embed_type"):
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        if (
            "mask" not in self.family.encoded and self.family.packing == 1
        ):  # of U-Nets and SD 3, whose T5's tokens follow CLIP's
            tokens += 77
        shapes = {"tokens": (tokens, width), "mask": (tokens,), "pooled": (pooled,)}
        return {name: shape for name, shape in shapes.items() if name in self.family.encoded and all(shape)}

    def unconditional_text(self, count: int) -> Text:
        """What stands for no prompt, (count, ...)."""
        text = self.encode_prompts([""] * count).text
        assert text is not None
        return text.drop(torch.ones(count, dtype=torch.bool, device=text.device))

    def save(self, network: nn.Module, times: Sequence[float], folder: Path) -> None:
        """Write a pipeline with this network, whose call with as many steps enters it at these times."""
        network = self.family.exported(network, self.embedded_guidance)
        pipe = copy.copy(self.pipe) if self.dtype == torch.float32 else self._as_read(network)
        pipe.register_modules(**{self.family.part: network}, scheduler=self.student_scheduler(times))
        pipe.save_pretrained(folder)

    def _as_read(self, network: nn.Module) -> Any:
        """The pipeline opened once more with this network: its other parts as they are before they are held in less than float32."""
        place = {"revision": self.source.revision, "variant": self.source.variant}
        return open_pipeline(self.source.path, "teacher.path", **place, **{self.family.part: network})

    def student_scheduler(self, times: Sequence[float]) -> Any:
        """One that, asked for as many steps, takes them at these times, as far as it can, and between them noises what the network predicts anew.

        In flow matching the times are evenly spaced from 1 to the last. Else the teacher's schedule is cut off at the first, and divided evenly.
        """
        from diffusers import FlowMatchEulerDiscreteScheduler, LCMScheduler

        scheduler = self.pipe.scheduler
        if isinstance(self.schedule, Flow):
            last = times[-1] if len(times) > 1 else None
            return FlowMatchEulerDiscreteScheduler(
                scheduler.config.num_train_timesteps, shift_terminal=last, stochastic_sampling=True
            )
        betas, count = scheduler.betas.clone(), int(times[0]) + 1
        if betas[-1] >= 1:
            signal = read_signal(scheduler)
            betas[-1] = 1 - signal[-1] / signal[-2]
        return LCMScheduler(
            num_train_timesteps=count,
            trained_betas=betas[:count].tolist(),
            original_inference_steps=count,
            prediction_type=self.prediction,
            timestep_scaling=ALL_PREDICTION,
            steps_offset=1,  # of no effect; pipelines ask for it
        )

    def check_steps(self, times: Sequence[float]) -> None:
        """Raises UserError where no scheduler of diffusers takes a student's steps at these times, so that it could not be exported."""
        scheduler = self.student_scheduler(times)
        scheduler.set_timesteps(len(times))
        taken = scheduler.timesteps / (
            scheduler.config.num_train_timesteps if isinstance(self.schedule, Flow) else 1
        )
        if not torch.allclose(taken.double(), torch.tensor(times, dtype=torch.float64), rtol=0, atol=1e-5):
            listed = [", ".join(f"{t:g}" for t in some) for some in (times, taken.tolist())]
            raise UserError(
                f"generator.further_noise_to_signal: steps at t = {listed[0]}; expected {listed[1]}, or null: pipelines have no others"
            )

    def _choose_size(self, resolution: int | None, factor: int) -> tuple[int, int]:
        """Height and width as the network has them. Another than its own is written into a U-Net's configuration, for the pipeline's default call;
        a transformer's positions depend on what stands there, so that its pipeline is to be called with height and width."""
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
