"""From the pickles in which NVIDIA published EDM and EDM2 to networks of ours: their arguments as our descriptions, and the weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from distill.config.errors import UserError
from distill.networks.edm import autoencoder as stability_autoencoder
from distill.networks.folder import build_network, load_denoiser, meta_denoiser
from distill.storage.pickles.machine import one_line
from distill.storage.pickles.reader import PickledObject, read_pickle
from distill.storage.tensors import check_weights

if TYPE_CHECKING:
    from distill.types import Denoiser

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
"""Arguments that all the U-Nets have, and our names."""
POSITIONAL = ("img_resolution", "img_channels", "label_dim")
"""The first arguments of every preconditioning, which may be given without their names."""
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
"""Our names of EDM's preconditionings and of their arguments, and the backbone where none is named."""
ENCODER_DECODER = "_EncoderDecoder"
"""Ends the names of SiDA's and Uni-Instruct's networks: EDM's, which can return their discriminator's logits too."""
EDM2_PRECONDITIONINGS = ("Precond", "EDM_2_Precond_EncoderDecoder", "EDM_2_Precond_Generator")
"""EDM2's network, and SiDA's of the same weights. The last is a student, without the uncertainty."""
ELSEWHERE = (
    "use_fp16",
    "sigma_min",
    "sigma_max",
    "epsilon_t",
    "label_dropout",
    "force_normalization",
    "use_gan",
)
"""Arguments that say how to train or to sample the network, or in which precision: here that is for the configuration to say."""
NETWORK_KEYS = ("ema", "net")
"""Where a file has its network: snapshots the average, EDM's training states the network that is being trained."""


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
"""Arguments of `EDMPrecond` in EDM's files, for what can be known of a network before its file is there."""


def meta_network(path: Path, kind: str) -> Denoiser:
    """What `open_network` would open, on the meta device: without its weights, and of a file of `PUBLISHED` without the file."""
    if path.is_dir():
        return meta_denoiser(path)
    if path.is_file() or path.name not in PUBLISHED:
        return open_network(path, kind).to("meta")
    with torch.device("meta"):
        return build_network(describe_network("EDMPrecond", dict(PUBLISHED[path.name])), path)


def open_network(path: Path, kind: str) -> Denoiser:
    """A network of this class from a published pickle or a converted folder, on the CPU, in evaluation mode. Raises UserError for all else."""
    network = load_denoiser(path).eval() if path.is_dir() else read_network(path)
    if type(network).__name__ != kind:
        raise UserError(f"{path}: holds an {type(network).__name__}; expected an {kind}")
    return network


def read_network(path: Path) -> Denoiser:
    """Open the network in a published pickle or a file of `torch.save`, in float32 on the CPU, in evaluation mode.

    It is the one under "ema" or, in a training state of EDM, the one that is being trained, under "net". Raises UserError for anything else.
    """
    data = read_pickle(path)
    found = find_network(data, path)
    try:
        tensors = weights(found)
        if len(found.state["_init_args"]) > len(POSITIONAL):
            raise TypeError("too many arguments without names")
        arguments = (
            dict(zip(POSITIONAL, found.state["_init_args"], strict=False)) | found.state["_init_kwargs"]
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: '{one_line(found.class_name)}' under 'ema' is no network with its arguments"
        ) from error
    check_memory(tensors, path)
    try:
        description = describe_network(found.class_name, arguments)
        if "autoencoder" in description and isinstance(data.get("encoder"), PickledObject):
            description["autoencoder"] = describe_encoder(data["encoder"])
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    # The sizes are the file's word. On the meta device they cost no memory until the weights have confirmed them.
    with torch.device("meta"):
        network = build_network(description, path)
    check_weights(network, tensors, path)
    network.to_empty(device="cpu").load_state_dict(tensors)
    return network.eval()


def find_network(data: Any, path: Path) -> PickledObject:
    """The network in a file's data. Raises UserError where there is none."""
    entries = data if isinstance(data, dict) else {}
    for key in NETWORK_KEYS:
        if isinstance(entries.get(key), PickledObject):
            return entries[key]
    alone = [key for key, value in entries.items() if _are_weights(value)]
    if alone or _are_weights(entries):
        where = f" under '{one_line(str(alone[0]))}'" if alone else ""
        raise UserError(
            f"{path}: holds weights alone{where}, without the network's class and sizes; expected a snapshot with a network under 'ema'"
        )
    raise UserError(f"{path}: holds no network under 'ema'")


def check_memory(tensors: dict[str, Tensor], path: Path) -> None:
    """Raises UserError where weights lie over one another: copied apart, they would take more memory than the file has."""
    held = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors.values()
    }
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > sum(held.values()):
        raise UserError(f"{path}: has weights that share their numbers, which no network has")


def describe_encoder(encoder: PickledObject) -> str | None:
    """Where the autoencoder of EDM2's latents is from, None for pixels. Raises ValueError where its latents are in other units than ours."""
    if encoder.class_name == "StandardRGBEncoder":
        return None
    if encoder.class_name != "StabilityVAEEncoder":
        raise ValueError(
            f"encoder class '{one_line(encoder.class_name)}' is unknown; expected StandardRGBEncoder, StabilityVAEEncoder"
        )
    name, deviation = encoder.state.get("vae_name"), np.array(stability_autoencoder.DEVIATION)
    scale = stability_autoencoder.SIGMA_DATA / deviation
    for found, expected in (
        (encoder.state.get("scale"), scale),
        (encoder.state.get("bias"), -np.array(stability_autoencoder.MEAN) * scale),
    ):
        if (
            not isinstance(found, np.ndarray)
            or found.shape != expected.shape
            or not np.allclose(found, expected, rtol=1e-3)
        ):
            raise ValueError(
                "its latents are in other units than those of EDM2's published encoder, the only ones known"
            )
    if not isinstance(name, str):
        raise ValueError("its encoder names no autoencoder")
    return name


def describe_network(class_name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Our description of a published class called with these arguments. Raises ValueError where there is none."""
    remaining = {name: value for name, value in arguments.items() if name not in ELSEWHERE}
    if class_name in EDM2_PRECONDITIONINGS:
        _expect(remaining, "resample_filter", [1, 1])
        description = {"class": "EDM2Network", **_take(remaining, EDM2)}
        if class_name == "EDM_2_Precond_Generator":
            description["logvar_channels"] = None
        description["autoencoder"] = (
            stability_autoencoder.PUBLISHED
            if description["channels"] == stability_autoencoder.CHANNELS
            else None
        )
    elif class_name in PRECONDITIONINGS:
        ours, names, backbone = PRECONDITIONINGS[class_name]
        backbone = remaining.pop("model_type", backbone)
        if isinstance(backbone, str):
            backbone = backbone.removesuffix(ENCODER_DECODER)
        if not isinstance(backbone, str) or backbone not in BACKBONES:
            raise ValueError(
                f"model_type '{one_line(backbone)}' is unknown; expected one of {', '.join(BACKBONES)}"
            )
        _expect(remaining, "decoder_type", "standard")
        precond, model = _take(remaining, names), _take(remaining, BACKBONES[backbone])
        if not all(isinstance(value, (int, float)) for value in precond.values()):
            raise ValueError(f"{', '.join(names)}: expected numbers")
        description = {
            "class": "EDMNetwork",
            "precond": {"class": ours, **precond},
            "model": {"class": backbone, **model},
        }
    else:
        known = ", ".join([*PRECONDITIONINGS, *EDM2_PRECONDITIONINGS])
        raise ValueError(f"network class '{one_line(class_name)}' is unknown; expected one of {known}")
    if remaining:
        raise ValueError(
            f"{class_name} has an argument '{one_line(next(iter(remaining)))}', which is unknown"
        )
    return description


def weights(module: PickledObject) -> dict[str, Tensor]:
    """Parameters and buffers by their names, as `state_dict` gives them. Raises KeyError, TypeError or AttributeError where there are none."""
    tensors: dict[str, Tensor] = {}
    waiting, seen = [("", module)], set()
    while waiting:
        prefix, current = waiting.pop()
        if id(current) in seen:
            raise TypeError("a module stands in two places")
        seen.add(id(current))
        own = current.state["_parameters"] | current.state["_buffers"]
        tensors |= {f"{prefix}{name}": value for name, value in own.items() if value is not None}
        waiting += [
            (f"{prefix}{name}.", child)
            for name, child in current.state["_modules"].items()
            if child is not None
        ]
    if not all(isinstance(value, Tensor) and name.isprintable() for name, value in tensors.items()):
        raise TypeError("a weight has no name or is no tensor")
    return tensors


def _are_weights(value: Any) -> bool:
    """True for a state dict: tensors by their names."""
    return isinstance(value, dict) and bool(value) and all(isinstance(one, Tensor) for one in value.values())


def _take(arguments: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Take out the arguments of these names, under ours."""
    return {ours: arguments.pop(theirs) for theirs, ours in names.items() if theirs in arguments}


def _expect(arguments: dict[str, Any], name: str, value: Any) -> None:
    """Take out an argument that our networks know one value of."""
    if arguments.pop(name, value) != value:
        raise ValueError(f"{name} is not {value}, the only one known")
