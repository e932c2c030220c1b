"""Networks as folders: `config.json` says what the network is, `model.safetensors` holds its weights.

A checkpoint folder is such a folder too, with the state of training beside it, so whatever opens an export opens a checkpoint.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import UserError
from distill.files import load_weights, read_json, save_tensors, write_json

if TYPE_CHECKING:
    from distill.types import Denoiser, Generator

FORMAT = "distill/1"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
PIPELINE = "model_index.json"
"""What a diffusers pipeline's folder is known by. An exported one holds `config.json` too, and its weights where diffusers has them."""
OWN_PIPELINE = "pipeline.py"
"""Beside `model_index.json`, the code of a pipeline of a network that diffusers does not have."""
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
    write_json(folder / CONFIG, {"format": FORMAT, "kind": "denoiser", "network": _describe(network)})
    save_tensors(folder / WEIGHTS, network.state_dict())


def save_generator(generator: Generator, folder: Path) -> None:
    """Write a one-step generator into an existing folder."""
    write_json(folder / CONFIG, describe_generator(generator))
    save_tensors(folder / WEIGHTS, generator.state_dict())


def export_generator(generator: Generator, folder: Path) -> None:
    """Write a one-step generator into an existing folder as others open it: a student of diffusers as a pipeline or adapters of diffusers.

    Other generators of images carry a pipeline of their own.
    """
    from distill.models.one_step import OneStepGenerator

    denoiser: Any = generator.denoiser if isinstance(generator, OneStepGenerator) else None
    if not isinstance(generator, OneStepGenerator) or not hasattr(denoiser, "save_pipeline"):
        save_generator(generator, folder)
        if len(generator.image_shape) == 3:
            shutil.copyfile(Path(__file__).with_name("exported_pipeline.py"), folder / OWN_PIPELINE)
            version = importlib.metadata.version("diffusers")
            write_json(folder / PIPELINE, {"_class_name": ["pipeline", "OneStepPipeline"], "_diffusers_version": version})
    else:
        exported = denoiser.exported()
        exported.save_pipeline(generator.init_noise_to_signal, folder)
        write_json(folder / CONFIG, describe_generator(OneStepGenerator(exported, generator.init_noise_to_signal)))


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

    `resolution`, in pixels, is another than its own, for networks of diffusers. Returns the generator in evaluation mode on the CPU. Raises
    UserError for anything else.
    """
    from distill.models.one_step import OneStepGenerator

    folder, description = _open(Path(path), "generator")
    # A guidance that its network was told is built into the exported one.
    here: dict[str, Any] = {"path": str(folder), "revision": None, "variant": None, "embedded_guidance": None} if is_pipeline(folder) else {}
    if resolution is not None:
        if description["network"].get("class") not in ("DiffusersNetwork", "LoRANetwork"):
            raise UserError(f"resolution: is {resolution}; expected none: {folder} holds a model of one size")
        here["resolution"] = resolution
    network = build_network({**description["network"], **here}, folder / CONFIG)
    generator = OneStepGenerator(network, description["init_noise_to_signal"]) if "init_noise_to_signal" in description else network
    if (folder / ADAPTERS).is_file():
        network.load_adapters(folder)
    elif not is_pipeline(folder):
        load_weights(generator, folder / WEIGHTS)
    return generator.eval()


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is a pipeline whose classes diffusers has."""
    return (folder / PIPELINE).is_file() and not (folder / OWN_PIPELINE).is_file()


def describe_generator(generator: Generator) -> dict[str, Any]:
    """What `config.json` says of a one-step generator: all but its weights."""
    from distill.models.one_step import OneStepGenerator

    if isinstance(generator, OneStepGenerator):
        description = {"init_noise_to_signal": generator.init_noise_to_signal, "network": _describe(generator.denoiser)}
    else:
        description = {"network": _describe(generator)}
    return {"format": FORMAT, "kind": "generator", **description}


def _describe(network: Any) -> dict[str, Any]:
    return {"class": type(network).__name__, **network.describe()}


def build_network(description: dict[str, Any], source: Path) -> Any:
    """A network without weights, from its class and what its `describe()` says. Raises UserError, naming the source, where there is none."""
    settings: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in description.items()}
    name = settings.pop("class")
    if name not in CLASSES:
        raise UserError(f"{source}: network class '{name}' is unknown; expected one of {', '.join(CLASSES)}")
    try:
        return getattr(importlib.import_module(CLASSES[name]), name).from_description(settings)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source}: {error}") from error


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


def main(arguments: list[str]) -> None:
    """Write a run's student anew, from its newest checkpoint if training goes on, and upload it where that is asked for."""
    from distill.errors import ArgumentParser
    from distill.files import new_folder
    from distill.model_card import write_card

    parser = ArgumentParser("python -m distill.export", "Write the student of a run as others open it, with a model card.")
    parser.add_argument("--run", type=Path, required=True, help="run folder")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the export; what stands there is replaced (default: export in the run's)")
    parser.add_argument("--push-to-hub", metavar="NAME", help="repository on the Hugging Face hub to upload it to, such as me/my-student")
    parser.add_argument("--private", action="store_true", help="make the repository private, if it is new")
    options = parser.parse_args(arguments)
    out = options.out or options.run / "export"
    if out.exists() and not (out / CONFIG).is_file():
        raise UserError(f"--out {out}: is there and holds no export; expected a new folder")
    generator = load_generator(options.run)
    with new_folder(out) as folder:
        export_generator(generator, folder)
        write_card(folder, options.run, options.push_to_hub or str(out))
    print(f"{out} is written")
    if options.push_to_hub is not None:
        print(f"{_upload(out, options.push_to_hub, options.private)} is uploaded")


def _upload(folder: Path, name: str, private: bool) -> str:
    """Upload a folder; returns its address. Raises UserError where the hub does not take it."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    try:
        api = HfApi()
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder)
    except (HFValidationError, HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        raise UserError(f"--push-to-hub {name}: cannot be uploaded ({str(error).splitlines()[0]}); {folder} is written") from error
    return str(address)


if __name__ == "__main__":
    from distill.errors import run_command

    run_command(main)
