"""Networks as folders: `config.json` describes the network, `model.safetensors` holds its weights.

A checkpoint's folder is such a folder too, and holds the training state as well. So whatever opens an export
opens a checkpoint.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config.errors import UserError, reading
from distill.config.installation import find_asset
from distill.storage.files import read_mapping, write_json
from distill.storage.tensors import load_weights, save_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from distill.types import Denoiser, Generator

FORMAT = "distill/1"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
PIPELINE = "model_index.json"
"""File that marks a pipeline of diffusers. An exported one has subfolders of weights beside `config.json`."""
OWN_PIPELINE = ("pipeline", "OneStepPipeline")
"""Entry of that file for a network that diffusers lacks: `OneStepPipeline` in `pipeline.py` beside it."""
OWN_NETWORK = ("network", "ExportedNetwork")
"""Class of that pipeline's part, in `network/network.py`, where diffusers looks for it."""
AUTOENCODER = "autoencoder"
"""Folder of an autoencoder that has no name on the hub, in an export of a latent model."""
EXPORT = "export"
"""Folder of a run that holds its network for others to use."""
ADAPTERS = "pytorch_lora_weights.safetensors"
"""File that marks an export of adapters for the teacher's pipeline of diffusers, beside `config.json`."""
CLASSES = {
    "UNet": "distill.networks.unet",
    "MLP": "distill.networks.mlp",
    "Affine": "distill.networks.exact.affine",
    "DiffusersNetwork": "distill.networks.diffusers.denoiser",
    "ConfiguredNetwork": "distill.networks.diffusers.configured",
    "LoRANetwork": "distill.networks.diffusers.adapters.lora",
    "EDMNetwork": "distill.networks.edm.edm",
    "EDM2Network": "distill.networks.edm.edm2",
    "SceneGenerator": "distill.networks.scene.scene",
}
"""Networks that can be saved, and their modules.

Each has `describe()`, which returns plain data, and `from_description(data)`, which builds the network or
raises KeyError, TypeError or ValueError.
"""
CONFIGURED = "ConfiguredNetwork"
"""The one that is built from a pipeline's configuration, and exported as a whole pipeline."""
PIPELINE_CLASSES = ("DiffusersNetwork", "LoRANetwork")
"""Those whose resolution can be chosen when they are opened."""
PIPELINE_FILES = ("revision", "variant", "config", "quantization")
"""Settings that say which files of a pipeline are read and how; an exported one needs none of them."""
MANIFEST, PROGRESS = "manifest.json", "progress.json"
"""Files of a checkpoint: the hashes of its other files, and how far the run was."""


def save_model(model: Denoiser | Generator, folder: Path, state: dict[str, Tensor] | None = None) -> None:
    """Write a teacher or a generator into an existing folder; `state` holds its weights if it does not."""
    write_json(folder / CONFIG, describe_model(model))
    save_tensors(folder / WEIGHTS, model.state_dict() if state is None else state)


def load_denoiser(path: Path) -> Denoiser:
    """Open a teacher: an export, a checkpoint, or a run folder (its export, else its newest checkpoint)."""
    folder = resolve_folder(path)
    description = read_description(folder, "denoiser")
    network = build_network(_network_in(folder, description["network"]), folder / CONFIG)
    if not is_pipeline(folder):
        load_weights(network, folder / WEIGHTS)
    return network


def meta_denoiser(path: Path) -> Denoiser:
    """Build a teacher's network on the meta device, without reading its weights."""
    import torch

    folder = resolve_folder(path)
    description = read_description(folder, "denoiser")
    if description["network"]["class"] == CONFIGURED:  # its other parts have weights, in files of theirs
        return load_denoiser(folder).to("meta")
    with torch.device("meta"):
        return build_network(description["network"], folder / CONFIG)


def load_generator(path: Path | str, resolution: int | None = None) -> Generator:
    """Open a generator: an export, a checkpoint, or a run folder (its export, else its newest checkpoint).

    `resolution`, in pixels, replaces the generator's own; only networks of diffusers can change it. The
    generator comes ready for use, not for training: in evaluation mode, on the CPU, with frozen parameters,
    so that no graph is recorded, and with its images clamped to [-1, 1].
    """
    from distill.networks.few_step_generator import ImageGenerator

    folder = resolve_folder(Path(path))
    description = read_description(folder, "generator")
    settings = _network_in(folder, description["network"])
    if resolution is not None:
        if settings["class"] not in PIPELINE_CLASSES:
            raise UserError(f"resolution: is {resolution}; expected none: {folder} holds a model of one size")
        settings["resolution"] = resolution
    network = build_network(settings, folder / CONFIG)
    generator = network
    if "init_noise_to_signal" in description:
        with reading(folder / CONFIG):
            further = description.get("further_noise_to_signal", ())
            generator = ImageGenerator(network, description["init_noise_to_signal"], *further)
    if (folder / ADAPTERS).is_file():
        network.load_adapters(folder)
    elif not is_pipeline(folder):
        load_weights(generator, folder / WEIGHTS)
    return generator.eval().requires_grad_(False)


def _network_in(folder: Path, network: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a network in a folder, which may hold what the description names."""
    if is_pipeline(folder) and network["class"] == CONFIGURED:
        network = {"class": "DiffusersNetwork", "null_label": network.get("null_label")}
    return {**network, **_settings_in(folder)}


def _settings_in(folder: Path) -> dict[str, Any]:
    """Return the settings that an export replaces, since it holds the pipeline or the autoencoder."""
    if is_pipeline(folder):  # the exported network has its guidance built in
        return {"path": str(folder), **dict.fromkeys(PIPELINE_FILES), "embedded_guidance": None}
    if (folder / AUTOENCODER).is_dir():
        return {AUTOENCODER: str(folder / AUTOENCODER)}
    return {}


def is_pipeline(folder: Path) -> bool:
    """Tell whether a folder is a pipeline of diffusers, not one of a network that only this package has."""
    return (folder / PIPELINE).is_file() and not is_own_pipeline(folder)


def is_own_pipeline(folder: Path) -> bool:
    """Tell whether a folder is the export of a network that only this package has."""
    if not (folder / PIPELINE).is_file():
        return False
    return read_mapping(folder / PIPELINE).get("_class_name") == list(OWN_PIPELINE)


def describe_generator(generator: Generator) -> dict[str, Any]:
    """Return the content of a generator's `config.json`: everything but its weights."""
    from distill.networks.few_step_generator import FewStepGenerator

    header = {"format": FORMAT, "kind": "generator"}
    if not isinstance(generator, FewStepGenerator):
        return {**header, "network": _describe(generator)}
    first, *further = generator.noise_to_signal
    return {
        **header,
        "init_noise_to_signal": first,
        "further_noise_to_signal": further,
        "network": _describe(generator.denoiser),
    }


def describe_model(network: Any) -> dict[str, Any]:
    """Return the content of a student's or a teacher's `config.json`: everything but its weights."""
    from distill.types import Generator

    if isinstance(network, Generator):
        return describe_generator(network)
    return {"format": FORMAT, "kind": "denoiser", "network": _describe(network)}


def _describe(network: Any) -> dict[str, Any]:
    return {"class": type(network).__name__, **network.describe()}


def build_network(description: dict[str, Any], source: Path, classes: Mapping[str, str] = CLASSES) -> Any:
    """Build a network without weights from its class and its `describe()`; errors name the source."""
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in description.items()
    }
    name = settings.pop("class")
    if name not in classes:
        raise UserError(f"{source}: network class '{name}' is unknown; expected one of {', '.join(classes)}")
    with reading(source):
        return getattr(importlib.import_module(classes[name]), name).from_description(settings)


def resolve_folder(path: Path) -> Path:
    """Find a network: in the folder itself, else in a run's export, else in its newest checkpoint."""
    path = find_asset(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected a run, a checkpoint or an export")
    candidates = [path, path / EXPORT]
    newest = newest_checkpoint(path)
    if newest is not None:
        candidates.append(newest)
    for folder in candidates:
        if (folder / CONFIG).is_file():
            return folder
    raise UserError(f"{path}: holds neither {CONFIG} nor an export nor a checkpoint")


def holds_teacher(path: Path) -> bool:
    """Tell whether a run, a checkpoint or an export is that of a teacher, not of a student."""
    return read_mapping(resolve_folder(path) / CONFIG).get("kind") == "denoiser"


def read_description(folder: Path, kind: str) -> dict[str, Any]:
    """Read the `config.json` of a network of this kind, and check it as far as all kinds have in common."""
    description = read_mapping(folder / CONFIG)
    if "_class_name" in description:
        raise UserError(f"{folder}: holds {description['_class_name']} of diffusers; expected a {kind}")
    if description.get("format") != FORMAT:
        raise UserError(f"{folder / CONFIG}: is not of the format '{FORMAT}'")
    if description.get("kind") != kind:
        raise UserError(f"{folder}: holds a {description.get('kind')}; expected a {kind}")
    network = description.get("network")
    if not isinstance(network, dict) or not isinstance(network.get("class"), str):
        raise UserError(
            f"{folder / CONFIG}: 'network' is {network!r:.60}; expected a mapping with the network's 'class'"
        )
    return description


def checkpoints(run_dir: Path) -> list[Path]:
    """List the checkpoints of a run, oldest first."""
    found = (run_dir / "checkpoints").glob("step-*")
    return sorted(path for path in found if re.fullmatch(r"step-\d{8}", path.name))


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written, as its name tells, or else its progress.

    It is 0 for a folder that is no checkpoint.
    """
    digits = checkpoint.name.removeprefix("step-")
    if digits.isdecimal():
        return int(digits)
    if not (checkpoint / PROGRESS).is_file():
        return 0
    step = read_mapping(checkpoint / PROGRESS).get("step")
    return step if isinstance(step, int) else 0


def newest_checkpoint(run_dir: Path) -> Path | None:
    """Return the newest checkpoint of a run, or None if it has none."""
    return max(checkpoints(run_dir), default=None)
