"""Networks as folders: `config.json` says what the network is, `model.safetensors` holds its weights.

A checkpoint folder is such a folder too, with the state of training beside it, so whatever opens an export opens a checkpoint.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from distill.errors import UserError
from distill.files import load_weights, read_json, save_tensors, write_json

if TYPE_CHECKING:
    from torch import nn

    from distill.models.one_step import OneStepGenerator
    from distill.models.unet import UNet

FORMAT = "distill/1"
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_denoiser(network: UNet, folder: Path) -> None:
    """Write a teacher into an existing folder."""
    _save(network, {"kind": "denoiser", "network": _describe(network)}, folder)


def save_generator(generator: OneStepGenerator, folder: Path) -> None:
    """Write a one-step generator into an existing folder."""
    description = {
        "kind": "generator",
        "init_noise_to_signal": generator.init_noise_to_signal,
        "network": _describe(cast("UNet", generator.denoiser)),
    }
    _save(generator, description, folder)


def load_denoiser(path: Path) -> UNet:
    """Open a teacher's export, or the newest one of a teacher's run folder. Raises UserError for anything else."""
    folder, description = _open(path, "denoiser")
    network = _build(description["network"], folder)
    load_weights(network, folder / WEIGHTS)
    return network


def load_generator(path: Path | str) -> OneStepGenerator:
    """Open a one-step generator: an export, a checkpoint, or a run folder (its export, else its newest checkpoint).

    Returns the generator in evaluation mode on the CPU. Raises UserError for anything else.
    """
    from distill.models.one_step import OneStepGenerator

    folder, description = _open(Path(path), "generator")
    generator = OneStepGenerator(_build(description["network"], folder), description["init_noise_to_signal"])
    load_weights(generator, folder / WEIGHTS)
    return generator.eval()


def _save(network: nn.Module, description: dict[str, Any], folder: Path) -> None:
    write_json(folder / CONFIG, {"format": FORMAT, **description})
    save_tensors(folder / WEIGHTS, network.state_dict())


def _describe(network: UNet) -> dict[str, Any]:
    return {"class": type(network).__name__, **dataclasses.asdict(network.config)}


def _build(description: dict[str, Any], folder: Path) -> UNet:
    from distill.models.unet import UNet, UNetConfig

    settings: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in description.items()}
    name = settings.pop("class")
    if name != "UNet":
        raise UserError(f"{folder / CONFIG}: network class '{name}' is unknown; expected 'UNet'")
    try:
        return UNet(UNetConfig(**settings))
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG}: {error}") from error


def _open(path: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    from distill.checkpoint import newest_checkpoint

    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected a run, a checkpoint or an export")
    newest = newest_checkpoint(path)
    candidates = [path, path / "export", *([newest] if newest else [])]
    folder = next((candidate for candidate in candidates if (candidate / CONFIG).is_file()), None)
    if folder is None:
        raise UserError(f"{path}: holds neither {CONFIG} nor an export nor a checkpoint")
    description = read_json(folder / CONFIG)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UserError(f"{folder / CONFIG}: is not of the format '{FORMAT}'")
    if description.get("kind") != kind:
        raise UserError(f"{folder}: holds a {description.get('kind')}; expected a {kind}")
    return folder, description
