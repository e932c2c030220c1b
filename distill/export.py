"""Networks as folders: `config.json` says what the network is, `model.safetensors` holds its weights.

A checkpoint folder is such a folder too, with the state of training beside it, so whatever opens an export opens a checkpoint.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from distill.errors import ArgumentParser, UserError, reading, run_command
from distill.files import load_weights, read_mapping, save_tensors, write_json, write_text

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
CODE = '''"""The network is in the package `distill`, which must be installed."""

from distill.exported_pipeline import {name}

__all__ = ["{name}"]
'''
AUTOENCODER = "autoencoder"
"""Folder, in an export of latents, of an autoencoder that has no name on the hub."""
ADAPTERS = "pytorch_lora_weights.safetensors"
"""What an export of adapters is known by, which diffusers loads into the teacher's pipeline. It holds `config.json` too."""
CLASSES = {
    "UNet": "distill.models.unet",
    "MLP": "distill.models.mlp",
    "Affine": "distill.models.affine",
    "DiffusersNetwork": "distill.models.diffusers_network",
    "LoRANetwork": "distill.models.lora",
    "EDMNetwork": "distill.models.edm",
    "EDM2Network": "distill.models.edm2",
    "Classifier": "distill.models.image_classifier",
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


def export_generator(generator: Generator, folder: Path) -> None:
    """Write a one-step generator into an existing folder as others open it: a student of diffusers as a pipeline or adapters of diffusers.

    Other generators of images are a pipeline of their own. `call` in `config.json` is what such a pipeline is called with, for an image.
    """
    from distill.models.few_steps import FewStepGenerator

    denoiser: Any = generator.denoiser if isinstance(generator, FewStepGenerator) else None
    if isinstance(generator, FewStepGenerator) and hasattr(denoiser, "save_pipeline"):
        exported = denoiser.exported()
        exported.save_pipeline([entry.t for entry in generator.entries], folder)
        generator, call = FewStepGenerator(exported, *generator.noise_to_signal), exported.example_call(generator.evaluations)
    else:
        save_tensors(folder / WEIGHTS, generator.state_dict())
        call = _save_own_pipeline(generator, folder) if len(generator.image_shape) == 3 else None
    write_json(folder / CONFIG, {**describe_generator(generator), "call": call})


def _save_own_pipeline(generator: Generator, folder: Path) -> dict[str, Any]:
    """Make a folder of a network that diffusers does not have a pipeline; returns what it is called with."""
    parts, carried = {"network": OWN_NETWORK}, cast(dict[str, Any], generator.carried_parts())
    for name, part in carried.items():
        part.save_pretrained(folder / name)
        parts[name] = ("diffusers", type(part).__name__)
    for place, (module, name) in {folder: OWN_PIPELINE, folder / "network": OWN_NETWORK}.items():
        write_text(place / f"{module}.py", CODE.format(name=name))
    version = importlib.metadata.version("diffusers")
    write_json(folder / PIPELINE, {"_class_name": OWN_PIPELINE, "_diffusers_version": version, **parts})
    return {"class_labels": [0]} if generator.label_count else {}


def load_denoiser(path: Path) -> Denoiser:
    """Open a teacher's export, or the newest one of a teacher's run folder. Raises UserError for anything else."""
    folder, description = _open(path, "denoiser")
    network = build_network(description["network"], folder / CONFIG)
    load_weights(network, folder / WEIGHTS)
    return network


def outline_denoiser(path: Path) -> Denoiser:
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
    from distill.models.few_steps import ImageGenerator

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
            generator = ImageGenerator(network, description["init_noise_to_signal"], *description.get("further_noise_to_signal", ()))
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
    return (folder / PIPELINE).is_file() and read_mapping(folder / PIPELINE).get("_class_name") == list(OWN_PIPELINE)


def describe_generator(generator: Generator) -> dict[str, Any]:
    """What `config.json` says of a student: all but its weights."""
    from distill.models.few_steps import FewStepGenerator

    if isinstance(generator, FewStepGenerator):
        first, *further = generator.noise_to_signal
        description = {"init_noise_to_signal": first, "further_noise_to_signal": further, "network": _describe(generator.denoiser)}
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


def build_network(description: dict[str, Any], source: Path) -> Any:
    """A network without weights, from its class and what its `describe()` says. Raises UserError, naming the source, where there is none."""
    settings: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in description.items()}
    name = settings.pop("class")
    if name not in CLASSES:
        raise UserError(f"{source}: network class '{name}' is unknown; expected one of {', '.join(CLASSES)}")
    with reading(source):
        return getattr(importlib.import_module(CLASSES[name]), name).from_description(settings)


def _open(path: Path, kind: str) -> tuple[Path, dict[str, Any]]:
    from distill.checkpoint import newest_checkpoint

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
        raise UserError(f"{folder / CONFIG}: 'network' is {network!r:.60}; expected a mapping with the network's 'class'")
    return description


def main(arguments: list[str]) -> None:
    """Write a run's student anew, and upload it where that is asked for. Raises UserError where there is none, or it cannot be uploaded."""
    from distill.files import new_folder
    from distill.hub import upload
    from distill.model_card import write_card
    from distill.run_record import read_run

    options = _parse(arguments)
    read_run(options.run)
    out = options.out or options.run / "export"
    _refuse_to_replace(out)
    generator = load_generator(options.run)
    try:
        with new_folder(out) as folder:
            export_generator(generator, folder)
            write_card(folder, options.run, options.push_to_hub or str(out))
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from error
    print(f"{out} is written")
    if options.push_to_hub is not None:
        print(f"{upload(out, options.push_to_hub, options.private)} is uploaded")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser("python -m distill.export", "Write the student of a run as others open it, with a model card, and upload it.")
    parser.add_argument("--run", type=Path, required=True, help="run folder; of a run without an export, its newest checkpoint")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the export; one that is there is replaced (default: export in the run's)")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="upload it to this repository of the Hugging Face hub, such as me/my-student")
    parser.add_argument("--private", action="store_true", help="make that repository private, if it is new")
    options = parser.parse_args(arguments)
    if options.private and options.push_to_hub is None:
        raise UserError("--private: goes with --push-to-hub only")
    if options.push_to_hub is not None and [bool(part) for part in options.push_to_hub.split("/")] != [True, True]:
        raise UserError(f"--push-to-hub {options.push_to_hub}: expected OWNER/NAME, such as me/my-student")
    return options


def _refuse_to_replace(out: Path) -> None:
    """Raise UserError where `out` holds anything but an export: a checkpoint and a teacher have a `config.json` too."""
    from distill.checkpoint import MANIFEST
    from distill.files import check_new_folder

    check_new_folder(out, "--out")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    kind = read_mapping(out / CONFIG).get("kind") if (out / CONFIG).is_file() else None
    if (out / MANIFEST).exists() or kind != "generator":
        raise UserError(f"--out {out}: is there and holds no export; expected a new folder")


if __name__ == "__main__":
    run_command(main)
