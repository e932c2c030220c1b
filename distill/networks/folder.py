"""Networks as folders: `config.json` says what the network is, `model.safetensors` holds its weights.

A checkpoint folder is such a folder too, with the state of training beside it, so whatever opens an export opens a checkpoint.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config.errors import UserError, reading
from distill.storage.files import read_mapping, write_json
from distill.storage.tensors import load_weights, save_tensors

if TYPE_CHECKING:
    from distill.types import Denoiser, Generator

FORMAT = "distill/1"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
PIPELINE = "model_index.json"
"""What a diffusers pipeline's folder is known by. An exported one holds `config.json` too, and its weights where diffusers has them."""
OWN_PIPELINE = ("pipeline", "OneStepPipeline")
"""What that file says of a network that diffusers does not have: `pipeline.py` beside it has a class of this name."""
OWN_NETWORK = ("network", "ExportedNetwork")
"""Its part, whose class is in `network/network.py`, where diffusers looks for it. The network itself lies where all exports have it."""
AUTOENCODER = "autoencoder"
"""Folder, in an export of latents, of an autoencoder that has no name on the hub."""
ADAPTERS = "pytorch_lora_weights.safetensors"
"""What an export of adapters is known by, which diffusers loads into the teacher's pipeline. It holds `config.json` too."""
CLASSES = {
    "UNet": "distill.networks.unet",
    "MLP": "distill.networks.mlp",
    "Affine": "distill.networks.exact.affine",
    "DiffusersNetwork": "distill.networks.diffusers.denoiser",
    "LoRANetwork": "distill.networks.diffusers.lora",
    "EDMNetwork": "distill.networks.edm.edm",
    "EDM2Network": "distill.networks.edm.edm2",
}
"""Networks that can be saved, and their modules. Each has `describe()`, plain data, and `from_description(data)`, the network without weights."""


def save_denoiser(network: Denoiser, folder: Path) -> None:
    """Write a teacher into an existing folder."""
    write_json(folder / CONFIG, describe_model(network))
    save_tensors(folder / WEIGHTS, network.state_dict())


def save_generator(generator: Generator, folder: Path) -> None:
    """Write a one-step generator into an existing folder."""
    write_json(folder / CONFIG, describe_generator(generator))
    save_tensors(folder / WEIGHTS, generator.state_dict())


def load_denoiser(path: Path) -> Denoiser:
    """Open a teacher's export, or the newest one of a teacher's run folder. Raises UserError for anything else."""
    folder, description = _open(path, "denoiser")
    network = build_network(description["network"], folder / CONFIG)
    load_weights(network, folder / WEIGHTS)
    return network


def meta_denoiser(path: Path) -> Denoiser:
    """A teacher's network on the meta device, without reading its weights. Raises UserError where there is none."""
    import torch

    folder, description = _open(path, "denoiser")
    with torch.device("meta"):
        return build_network(description["network"], folder / CONFIG)


def load_generator(path: Path | str, resolution: int | None = None) -> Generator:
    """Open a one-step generator: an export, a checkpoint, or a run folder (its export, else its newest checkpoint).

    `resolution`, in pixels, is another than its own, for networks of diffusers. Returns the generator for use, not for training: in evaluation mode,
    on the CPU, its parameters frozen, so that no graph is recorded, and its images clamped to [-1, 1]. Raises UserError for anything else.
    """
    from distill.networks.few_step_generator import ImageGenerator

    folder, description = _open(Path(path), "generator")
    here: dict[str, Any] = {}
    if is_pipeline(folder):  # a guidance that its network was told is built into the exported one
        here = {"path": str(folder), "revision": None, "variant": None, "embedded_guidance": None}
    elif (folder / AUTOENCODER).is_dir():
        here = {AUTOENCODER: str(folder / AUTOENCODER)}
    if resolution is not None:
        if description["network"].get("class") not in ("DiffusersNetwork", "LoRANetwork"):
            raise UserError(f"resolution: is {resolution}; expected none: {folder} holds a model of one size")
        here["resolution"] = resolution
    network = build_network({**description["network"], **here}, folder / CONFIG)
    generator = network
    if "init_noise_to_signal" in description:
        with reading(folder / CONFIG):
            generator = ImageGenerator(
                network, description["init_noise_to_signal"], *description.get("further_noise_to_signal", ())
            )
    if (folder / ADAPTERS).is_file():
        network.load_adapters(folder)
    elif not is_pipeline(folder):
        load_weights(generator, folder / WEIGHTS)
    return generator.eval().requires_grad_(False)


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is a pipeline of diffusers, and not of a network that only this package has. Raises UserError where its index is broken."""
    return (folder / PIPELINE).is_file() and not is_own_pipeline(folder)


def is_own_pipeline(folder: Path) -> bool:
    """Whether a folder is the export of a network that only this package has. Raises UserError where its index is broken."""
    return (folder / PIPELINE).is_file() and read_mapping(folder / PIPELINE).get("_class_name") == list(
        OWN_PIPELINE
    )


def describe_generator(generator: Generator) -> dict[str, Any]:
    """What `config.json` says of a student: all but its weights."""
    from distill.networks.few_step_generator import FewStepGenerator

    if isinstance(generator, FewStepGenerator):
        first, *further = generator.noise_to_signal
        description = {
            "init_noise_to_signal": first,
            "further_noise_to_signal": further,
            "network": _describe(generator.denoiser),
        }
    else:
        description = {"network": _describe(generator)}
    return {"format": FORMAT, "kind": "generator", **description}


def describe_model(network: Any) -> dict[str, Any]:
    """What `config.json` says of a student or of a teacher: all but its weights."""
    from distill.types import Generator

    if isinstance(network, Generator):
        return describe_generator(network)
    return {"format": FORMAT, "kind": "denoiser", "network": _describe(network)}


def _describe(network: Any) -> dict[str, Any]:
    return {"class": type(network).__name__, **network.describe()}


def build_network(description: dict[str, Any], source: Path, classes: Mapping[str, str] = CLASSES) -> Any:
    """A network without weights, from its class and what its `describe()` says. Raises UserError, naming the source, where there is none."""
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in description.items()
    }
    name = settings.pop("class")
    if name not in classes:
        raise UserError(f"{source}: network class '{name}' is unknown; expected one of {', '.join(classes)}")
    with reading(source):
        return getattr(importlib.import_module(classes[name]), name).from_description(settings)


def _open(path: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; expected a run, a checkpoint or an export")
    newest = newest_checkpoint(path)
    candidates = [path, path / "export", *([newest] if newest else [])]
    folder = next((candidate for candidate in candidates if (candidate / CONFIG).is_file()), None)
    if folder is None:
        raise UserError(f"{path}: holds neither {CONFIG} nor an export nor a checkpoint")
    return folder, read_description(folder, kind)


def read_description(folder: Path, kind: str) -> dict[str, Any]:
    """What `config.json` says of a network of this kind. Raises UserError where it is of another, or says nothing of a network."""
    description = read_mapping(folder / CONFIG)
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


MANIFEST, PROGRESS = "manifest.json", "progress.json"


def checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    found = (run_dir / "checkpoints").glob("step-*")
    return sorted(path for path in found if re.fullmatch(r"step-\d{8}", path.name))


def newest_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return max(checkpoints(run_dir), default=None)
