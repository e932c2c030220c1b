"""What a diffusers pipeline has besides its denoiser: scheduler, image autoencoder and text encoders, and how it is opened and written."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from distill.errors import UserError
from distill.files import weights_sha256
from distill.parameterization import Prediction
from distill.schedules import DDPM, Flow, NoiseSchedule
from distill.types import Condition, Text

LEAST_SIGNAL = 2.0**-24
"""alpha^2 where a schedule of zero terminal signal-to-noise ratio ends, as diffusers' Euler scheduler has it: with 0 one would divide by it."""


class Pipeline:
    """A diffusers pipeline around a U-Net, opened for the denoisers that share it: a copy of one of them copies its network alone.

    `source` are the settings that open it. Raises UserError for kinds of parts that are unknown here, and for settings that do not fit it.
    """

    def __init__(self, pipe: Any, source: dict[str, Any], resolution: int | None = None, null_label: int | None = None) -> None:
        self.pipe, self.source, self.null_label = pipe, source, null_label
        check_parts(pipe)
        self.schedule, self.prediction = read_scheduler(pipe.scheduler)
        self.train_steps: int = pipe.scheduler.config.num_train_timesteps
        self.vae: Any = getattr(pipe, "vae", None)
        self.takes_text = hasattr(pipe, "encode_prompt")
        factor = 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)
        height, width = self._choose_size(resolution, factor)
        self.image_shape = (pipe.unet.config.in_channels, height, width)
        channels = pipe.unet.config.in_channels if self.vae is None else self.vae.config.in_channels
        self.pixel_shape = (channels, height * factor, width * factor)
        classes = pipe.unet.config.get("num_class_embeds") or 0
        if null_label is not None and null_label != classes - 1:
            raise UserError(f"teacher.null_label: is {null_label}; expected null, or the last of the U-Net's {classes} classes")
        self.label_count = classes if null_label is None else null_label
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.float().eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Pipeline:
        return self

    def to(self, device: torch.device) -> None:
        """Move the autoencoder and the text encoders."""
        for name, part in self.pipe.components.items():
            if isinstance(part, nn.Module) and name.startswith(("vae", "text_encoder")):
                part.to(device)

    def encode(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """The latents' mean, in the units in which the network has them; the images themselves where there are no latents."""
        if self.vae is None:
            return images
        shift, scale = self._latent_units(images)
        return (self.vae.encode(images).latent_dist.mode() - shift) / scale

    def decode(self, x0: Float[Tensor, "b ..."]) -> Float[Tensor, "b c h w"]:
        """Images of latents."""
        if self.vae is None:
            return x0
        shift, scale = self._latent_units(x0)
        return self.vae.decode(x0 * scale + shift, return_dict=False)[0]

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Prompts by all text encoders of the pipeline, and what it takes for none."""
        if not self.takes_text:
            raise ValueError(f"{type(self.pipe).__name__} takes no prompts")
        device = next(self.pipe.text_encoder.parameters()).device
        with torch.no_grad():
            encoded = self.pipe.encode_prompt(prompt=list(prompts), device=device, num_images_per_prompt=1, do_classifier_free_guidance=True)
        # Each kind of embedding comes as a pair: for the prompts, and for none.
        names = ("tokens", "pooled")[: len(encoded) // 2]
        given, none = dict(zip(names, encoded[0::2], strict=True)), dict(zip(names, encoded[1::2], strict=True))
        if "pooled" in given:
            given["ids"] = self._size_ids().to(given["pooled"]).expand(len(prompts), -1)
        return Condition(text=Text(given, {name: value[:1] for name, value in none.items()}))

    def prompt_encoder_sha256(self) -> str:
        """Hash of the encoders' weights, the tokenizers' vocabularies, and what the pipeline's class and size do with them."""
        digest = hashlib.sha256(f"{type(self.pipe).__name__} {self.pixel_shape} {self.pipe.config.get('force_zeros_for_empty_prompt')}".encode())
        for name, part in sorted(self.pipe.components.items()):
            if name.startswith("tokenizer") and part is not None:
                digest.update(json.dumps([name, sorted(part.get_vocab().items())]).encode())
            elif name.startswith("text_encoder") and part is not None:
                digest.update(f"{name} {weights_sha256(part)}".encode())
        return digest.hexdigest()

    def no_text(self, count: int) -> Text:
        """What stands for no prompt, (count, ...)."""
        text = self.encode_prompts([""] * count).text
        assert text is not None
        return text.without(torch.ones(count, dtype=torch.bool, device=text.device))

    def save(self, unet: nn.Module, t: float, folder: Path) -> None:
        """Write a pipeline with this network, whose call with one step enters it at time t."""
        pipe = copy.copy(self.pipe)
        pipe.register_modules(unet=unet, scheduler=self._one_step_scheduler(t))
        pipe.save_pretrained(folder)

    def _one_step_scheduler(self, t: float) -> Any:
        """The teacher's schedule, cut off at t: what a scheduler begins at when it is asked for one step."""
        from diffusers import DDIMScheduler

        scheduler = self.pipe.scheduler
        betas = scheduler.betas.clone()
        if betas[-1] >= 1:
            signal = read_signal(scheduler)
            betas[-1] = 1 - signal[-1] / signal[-2]
        return DDIMScheduler(
            num_train_timesteps=int(t) + 1,
            trained_betas=betas[: int(t) + 1].tolist(),
            prediction_type=self.prediction,
            clip_sample=False,
            timestep_spacing="trailing",
            steps_offset=1,  # of no effect with this spacing; pipelines ask for it
        )

    def _latent_units(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the autoencoder's latents, which for the network are 0 and 1."""
        config = self.vae.config
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mean, std = (x.new_tensor(config[name]).reshape(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        else:
            mean, std = x.new_tensor(config.get("shift_factor") or 0.0), x.new_tensor(1.0)
        return mean, std / config.scaling_factor

    def _size_ids(self) -> Tensor:
        """SDXL's micro-conditioning: original size, crop and target size, those of whole images of the pipeline's own size."""
        size = self.pixel_shape[1:]
        return torch.tensor([*size, 0, 0, *size])

    def _choose_size(self, resolution: int | None, factor: int) -> tuple[int, int]:
        """Height and width as the network has them; another than its own is written into its configuration, for the pipeline's default call."""
        unet = self.pipe.unet
        if resolution is not None:
            coarsest = factor << (len(unet.config.block_out_channels) - 1)
            if resolution % coarsest:
                raise UserError(f"teacher.resolution: {resolution} is not divisible by {coarsest}, which the network's levels need")
            unet.register_to_config(sample_size=resolution // factor)
        size = unet.config.sample_size
        if size is None:
            raise UserError("teacher.resolution: the pipeline names none; expected pixels")
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        return height, width


def read_scheduler(scheduler: Any) -> tuple[NoiseSchedule, Prediction]:
    """Schedule and kind of prediction of a diffusers scheduler. Raises UserError, naming it, where either is unknown here."""
    name, prediction = type(scheduler).__name__, scheduler.config.get("prediction_type", "epsilon")
    if name.startswith("FlowMatch") or prediction == "flow_prediction" or scheduler.config.get("use_flow_sigmas"):
        return Flow(), "flow_prediction"
    if not hasattr(scheduler, "alphas_cumprod"):
        raise UserError(f"teacher.path: scheduler {name} is unknown here; expected one of DDPM's kind, with alphas_cumprod, or of flow matching")
    if prediction not in get_args(Prediction):
        raise UserError(f"teacher.path: {name}'s prediction_type '{prediction}' is unknown here; expected one of: {', '.join(get_args(Prediction))}")
    return DDPM.of(read_signal(scheduler)), prediction


def read_signal(scheduler: Any) -> Float[Tensor, " n"]:
    """alpha^2 at every step, never 0."""
    signal = scheduler.alphas_cumprod.double()
    if signal[-1] == 0:
        signal[-1] = min(LEAST_SIGNAL, signal[-2].item() / 2)
    return signal


def check_parts(pipe: Any) -> None:
    """Raise UserError, naming the first part that is unknown here."""
    name = type(pipe).__name__
    unet: Any = getattr(pipe, "unet", None)
    vae: Any = getattr(pipe, "vae", None)
    if type(unet).__name__ not in ("UNet2DModel", "UNet2DConditionModel"):
        found = next((type(part).__name__ for part in (unet, getattr(pipe, "transformer", None)) if part is not None), "none")
        raise UserError(f"teacher.path: {name}'s denoiser, {found}, is unknown here; expected UNet2DModel or UNet2DConditionModel")
    if vae is not None and type(vae).__name__ != "AutoencoderKL":
        raise UserError(f"teacher.path: {name}'s autoencoder, {type(vae).__name__}, is unknown here; expected AutoencoderKL")
    if hasattr(pipe, "vqvae"):
        raise UserError(f"teacher.path: {name}'s autoencoder, {type(pipe.vqvae).__name__}, is unknown here; expected AutoencoderKL")
    latents = unet.config.in_channels if vae is None else vae.config.latent_channels
    if unet.config.in_channels != latents:
        raise UserError(f"teacher.path: {name}'s U-Net takes {unet.config.in_channels} channels; expected {latents}, as its images have")
    if type(unet).__name__ == "UNet2DConditionModel":
        _check_conditions(name, pipe, unet.config)


def _check_conditions(name: str, pipe: Any, config: Any) -> None:
    if not hasattr(pipe, "encode_prompt"):
        raise UserError(f"teacher.path: {name} encodes no prompts, which its UNet2DConditionModel needs")
    if config.addition_embed_type not in (None, "text_time"):
        raise UserError(f"teacher.path: addition_embed_type '{config.addition_embed_type}' of {name} is unknown here; expected none or text_time")
    for key in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim"):
        if config.get(key) is not None:
            raise UserError(f"teacher.path: the U-Net of {name} has {key}, which is unknown here")
