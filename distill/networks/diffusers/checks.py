"""Checks that the parts of a diffusers pipeline are of kinds that are known here."""

from __future__ import annotations

from typing import Any

from distill.config.errors import UserError
from distill.networks.diffusers.autoencoders.kinds import AUTOENCODERS
from distill.networks.diffusers.families import FAMILIES, Family
from distill.networks.diffusers.served import check_served

UNKNOWN_SETTINGS = (
    "time_cond_proj_dim",
    "use_additional_t_cond",
    "use_layer3d_rope",
    "use_meanflow",
    "visual_cond",
    "zero_cond_t",
)
"""Settings of networks that change how they are called, in ways that are unknown here."""
KNOWN_KINDS = {"addition_embed_type": "text_time", "encoder_hid_dim_type": "text_proj"}
"""Kinds of further inputs of U-Nets that are known here: SDXL's sizes, and Kolors' projection of its text."""
CLASS_SETTINGS = ("class_embed_type", "num_class_embeds")
"""Settings by which a network takes classes; unknown in networks that take prompts."""


def check_parts(pipe: Any) -> Family:
    """Return the family of a pipeline's denoiser, or raise a UserError that names the first unknown part."""
    name = type(pipe).__name__
    check_served(name)
    network = find_denoiser(pipe)
    kind = "none" if network is None else type(network).__name__
    if kind not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise UserError(f"teacher.path: {name}'s denoiser, {kind}, is unknown here; expected one of: {known}")
    family = FAMILIES[kind]
    _check_autoencoder(pipe, network.config, family)
    if family.inputs is not None and not hasattr(pipe, "encode_prompt"):
        raise UserError(f"teacher.path: {name} encodes no prompts, which its {kind} needs")
    _check_settings(name, network.config, family)
    return family


def find_denoiser(pipe: Any) -> Any:
    """Return the U-Net or the transformer of a pipeline, or None."""
    unet = getattr(pipe, "unet", None)
    return unet if unet is not None else getattr(pipe, "transformer", None)


def _check_autoencoder(pipe: Any, config: Any, family: Family) -> None:
    """Check the kind of the autoencoder, and that its latents have as many channels as the network takes."""
    name = type(pipe).__name__
    vae = getattr(pipe, "vae", None) or getattr(pipe, "vqvae", None)
    if vae is None:
        return
    kind = type(vae).__name__
    if kind not in AUTOENCODERS:
        known = ", ".join(AUTOENCODERS)
        raise UserError(
            f"teacher.path: {name}'s autoencoder, {kind}, is unknown here; expected one of: {known}"
        )
    channels = AUTOENCODERS[kind].channels(vae.config) * family.packing**2
    taken = config[family.channel_settings[0]]
    if taken != channels:
        raise UserError(
            f"teacher.path: {name}'s network takes {taken} channels; expected {channels}, as its images have"
        )


def _check_settings(name: str, config: Any, family: Family) -> None:
    """Check that the network has no setting that changes its arguments in an unknown way."""
    for setting, known in KNOWN_KINDS.items():
        if config.get(setting) not in (None, known):
            raise UserError(
                f"teacher.path: {setting} '{config.get(setting)}' of {name} is unknown here; "
                f"expected none or {known}"
            )
    settings = [*CLASS_SETTINGS] if family.inputs is not None else []
    settings += UNKNOWN_SETTINGS
    if not family.takes_guidance:
        settings.append("guidance_embeds")
    for setting in settings:
        if config.get(setting):
            raise UserError(f"teacher.path: the network of {name} has {setting}, which is unknown here")
