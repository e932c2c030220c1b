"""Classes and arguments of NVIDIA's networks, and of published students of them, as our descriptions."""

from __future__ import annotations

from typing import Any

import numpy as np

from distill.networks.edm import autoencoder
from distill.storage.pickles.machine import one_line
from distill.storage.pickles.reader import PickledObject

SIZES = {
    "img_resolution": "resolution",
    "img_channels": "channels",
    "label_dim": "label_count",
    "model_channels": "width",
    "channel_mult": "multipliers",
    "channel_mult_emb": "embedding_multiplier",
    "num_blocks": "blocks",
    "attn_resolutions": "attention",
    "dropout": "dropout",
}
"""Arguments that all the U-Nets have, and our names for them."""
POSITIONAL = ("img_resolution", "img_channels", "label_dim")
"""First arguments of every preconditioning, which may be given without their names."""
BACKBONES = {
    "DhariwalUNet": SIZES | {"augment_dim": "augment_count"},
    "SongUNet": SIZES
    | {
        "augment_dim": "augment_count",
        "embedding_type": "noise_embedding",
        "channel_mult_noise": "noise_multiplier",
        "encoder_type": "encoder",
        "resample_filter": "resample_filter",
    },
}
EDM2 = SIZES | {
    "channel_mult_noise": "noise_multiplier",
    "channels_per_head": "channels_per_head",
    "label_balance": "label_balance",
    "concat_balance": "skip_balance",
    "res_balance": "residual_balance",
    "attn_balance": "attention_balance",
    "clip_act": "largest_activation",
    "sigma_data": "sigma_data",
    "logvar_channels": "logvar_channels",
}
PRECONDITIONINGS = {
    "EDMPrecond": ("EDMPrecond", {"sigma_data": "sigma_data"}, "DhariwalUNet"),
    "VPPrecond": ("VPPrecond", {"beta_d": "beta_d", "beta_min": "beta_min", "M": "steps"}, "SongUNet"),
    "VEPrecond": ("VEPrecond", {}, "SongUNet"),
    "iDDPMPrecond": ("IDDPMPrecond", {"C_1": "c_1", "C_2": "c_2", "M": "steps"}, "DhariwalUNet"),
    "EDMPrecond_EncoderDecoder": ("EDMPrecond", {"sigma_data": "sigma_data"}, "SongUNet"),
}
"""Our names for EDM's preconditionings and their arguments, and the backbone if the arguments name none."""
ENCODER_DECODER = "_EncoderDecoder"
"""Suffix of SiDA's and Uni-Instruct's classes: EDM's networks that can also return discriminator logits."""
EDM2_STUDENT = "EDM_2_Precond_Generator"
"""SiDA's student of EDM2, which lacks the uncertainty."""
EDM2_PRECONDITIONINGS = ("Precond", "EDM_2_Precond_EncoderDecoder", EDM2_STUDENT)
"""EDM2's network, and SiDA's classes with the same weights."""
ELSEWHERE = (
    "use_fp16",
    "sigma_min",
    "sigma_max",
    "epsilon_t",
    "label_dropout",
    "force_normalization",
    "use_gan",
)
"""Arguments about training, sampling or precision, which a run's configuration decides here."""


CIFAR10 = {
    "img_resolution": 32,
    "img_channels": 3,
    "model_type": "SongUNet",
    "model_channels": 128,
    "channel_mult": [2, 2, 2],
    "augment_dim": 9,
}
FACES = CIFAR10 | {"img_resolution": 64, "channel_mult": [1, 2, 2, 2]}
NCSNPP = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}
PUBLISHED = {
    "edm-cifar10-32x32-uncond-vp.pkl": CIFAR10,
    "edm-cifar10-32x32-uncond-ve.pkl": CIFAR10 | NCSNPP,
    "edm-cifar10-32x32-cond-vp.pkl": CIFAR10 | {"label_dim": 10},
    "edm-cifar10-32x32-cond-ve.pkl": CIFAR10 | NCSNPP | {"label_dim": 10},
    "edm-ffhq-64x64-uncond-vp.pkl": FACES,
    "edm-ffhq-64x64-uncond-ve.pkl": FACES | NCSNPP,
    "edm-afhqv2-64x64-uncond-vp.pkl": FACES,
    "edm-afhqv2-64x64-uncond-ve.pkl": FACES | NCSNPP,
    "edm-imagenet-64x64-cond-adm.pkl": {
        "img_resolution": 64,
        "img_channels": 3,
        "label_dim": 1000,
        "model_type": "DhariwalUNet",
    },
}
"""Arguments of `EDMPrecond` in EDM's published files, for networks whose file is not there yet."""


def describe_network(class_name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Describe a published class called with these arguments; unknown ones raise ValueError."""
    remaining = {name: value for name, value in arguments.items() if name not in ELSEWHERE}
    if class_name in EDM2_PRECONDITIONINGS:
        description = _describe_edm2(class_name, remaining)
    elif class_name in PRECONDITIONINGS:
        description = _describe_edm(class_name, remaining)
    else:
        known = ", ".join([*PRECONDITIONINGS, *EDM2_PRECONDITIONINGS])
        raise ValueError(f"network class '{one_line(class_name)}' is unknown; expected one of {known}")
    if remaining:
        unknown = next(iter(remaining))
        raise ValueError(f"{class_name} has an argument '{one_line(unknown)}', which is unknown")
    return description


def _describe_edm2(class_name: str, remaining: dict[str, Any]) -> dict[str, Any]:
    """Describe a network of EDM2, and take its arguments out of those that remain."""
    _expect(remaining, "resample_filter", [1, 1])
    description = {"class": "EDM2Network", **_take(remaining, EDM2)}
    if class_name == EDM2_STUDENT:
        description["logvar_channels"] = None
    is_latent = description["channels"] == autoencoder.CHANNELS
    description["autoencoder"] = autoencoder.PUBLISHED if is_latent else None
    return description


def _describe_edm(class_name: str, remaining: dict[str, Any]) -> dict[str, Any]:
    """Describe a network of EDM, and take its arguments out of those that remain."""
    precond_class, precond_names, default_backbone = PRECONDITIONINGS[class_name]
    backbone = remaining.pop("model_type", default_backbone)
    if isinstance(backbone, str):
        backbone = backbone.removesuffix(ENCODER_DECODER)
    if not isinstance(backbone, str) or backbone not in BACKBONES:
        known = ", ".join(BACKBONES)
        raise ValueError(f"model_type '{one_line(backbone)}' is unknown; expected one of {known}")
    _expect(remaining, "decoder_type", "standard")
    precond = _take(remaining, precond_names)
    model = _take(remaining, BACKBONES[backbone])
    if not all(isinstance(value, (int, float)) for value in precond.values()):
        raise ValueError(f"{', '.join(precond_names)}: expected numbers")
    return {
        "class": "EDMNetwork",
        "precond": {"class": precond_class, **precond},
        "model": {"class": backbone, **model},
    }


def _take(arguments: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Take these arguments out, and return them under our names."""
    return {ours: arguments.pop(theirs) for theirs, ours in names.items() if theirs in arguments}


def _expect(arguments: dict[str, Any], name: str, value: Any) -> None:
    """Take out an argument of which our networks know one value only."""
    if arguments.pop(name, value) != value:
        raise ValueError(f"{name} is not {value}, the only one known")


def describe_encoder(encoder: PickledObject) -> str | None:
    """Return the name of the autoencoder of EDM2's latents, or None for pixels.

    An encoder of unknown class, or whose latents are scaled otherwise than ours, raises ValueError.
    """
    if encoder.class_name == "StandardRGBEncoder":
        return None
    if encoder.class_name != "StabilityVAEEncoder":
        raise ValueError(
            f"encoder class '{one_line(encoder.class_name)}' is unknown; "
            "expected StandardRGBEncoder, StabilityVAEEncoder"
        )
    scale = autoencoder.SIGMA_DATA / np.array(autoencoder.STD)
    bias = -np.array(autoencoder.MEAN) * scale
    if not _is_close(encoder.state.get("scale"), scale) or not _is_close(encoder.state.get("bias"), bias):
        raise ValueError(
            "its latents are in other units than those of EDM2's published encoder, the only ones known"
        )
    name = encoder.state.get("vae_name")
    if not isinstance(name, str):
        raise ValueError("its encoder names no autoencoder")
    return name


def _is_close(found: Any, expected: np.ndarray) -> bool:
    """Tell whether an entry of a file is an array of these numbers, up to 0.1 %."""
    if not isinstance(found, np.ndarray) or found.shape != expected.shape:
        return False
    return np.allclose(found, expected, rtol=1e-3)
