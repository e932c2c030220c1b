"""Exports: a run's generator as a folder that diffusers opens. `python -m distill export` writes one too."""

from __future__ import annotations

import argparse
import importlib.metadata
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.config.command_line import ArgumentParser
from distill.config.errors import UserError, writing_to
from distill.networks.folder import (
    CONFIG,
    OWN_NETWORK,
    OWN_PIPELINE,
    PIPELINE,
    WEIGHTS,
    describe_generator,
    load_generator,
)
from distill.storage.files import read_mapping, write_json, write_text
from distill.storage.tensors import save_tensors

if TYPE_CHECKING:
    from distill.types import Generator

CODE = '''"""The network is in the package `distill`, which must be installed."""

from distill.publishing.diffusers_pipeline import {name}

__all__ = ["{name}"]
'''
"""Code that an export of a network of this project holds. Its import path must never change: old exports name
it."""


def export_generator(generator: Generator, folder: Path) -> None:
    """Write a generator into an existing folder.

    A student of diffusers becomes a pipeline or adapters of diffusers, another generator of images a pipeline
    of this package, a scene its weights and turntables, and a generator of vectors its weights alone. `call`
    in `config.json` holds the arguments with which the pipeline makes an image.
    """
    from distill.networks.diffusers.denoiser import DiffusersNetwork
    from distill.networks.few_step_generator import FewStepGenerator
    from distill.networks.scene.scene import SceneGenerator
    from distill.publishing.scene.turntable import save_turntables

    call = None
    if isinstance(generator, FewStepGenerator) and isinstance(generator.denoiser, DiffusersNetwork):
        exported = generator.denoiser.exported()
        exported.save_pipeline([entry.t for entry in generator.entry_points], folder)
        call = exported.example_call(generator.evaluations)
        generator = FewStepGenerator(exported, *generator.noise_to_signal)
    else:
        save_tensors(folder / WEIGHTS, generator.state_dict())
        if isinstance(generator, SceneGenerator):
            save_turntables(generator, folder)
        elif len(generator.image_shape) == 3:
            call = _save_own_pipeline(generator, folder)
    write_json(folder / CONFIG, {**describe_generator(generator), "call": call})


def _save_own_pipeline(generator: Generator, folder: Path) -> dict[str, Any]:
    """Make a pipeline of a network that diffusers does not have, and return the arguments of a call."""
    parts = {"network": OWN_NETWORK}
    components: dict[str, Any] = {} if generator.codec is None else generator.codec.components_to_bundle()
    for name, component in components.items():
        component.save_pretrained(folder / name)
        parts[name] = ("diffusers", type(component).__name__)
    for path, (module, name) in {folder: OWN_PIPELINE, folder / "network": OWN_NETWORK}.items():
        write_text(path / f"{module}.py", CODE.format(name=name))
    version = importlib.metadata.version("diffusers")
    write_json(folder / PIPELINE, {"_class_name": OWN_PIPELINE, "_diffusers_version": version, **parts})
    return {"class_labels": [0]} if generator.label_count else {}


def main(arguments: list[str]) -> None:
    """Write the student of a run as an export, and upload it if asked to."""
    from distill.publishing.hub import fetch_card, upload
    from distill.publishing.model_card import write_card
    from distill.publishing.run_record import read_run
    from distill.storage.files import new_folder

    options = _parse(arguments)
    run = read_run(options.run)
    out = options.out or options.run / "export"
    _refuse_to_replace(out)
    generator = load_generator(options.run)
    if options.push_to_hub is not None:
        fetch_card(run.config.get("teacher") or {})
    with writing_to(f"--out {out}:"), new_folder(out) as folder:
        export_generator(generator, folder)
        write_card(folder, options.run, options.push_to_hub or str(out))
    print(f"{out} is written")
    if options.push_to_hub is not None:
        print(f"{upload(out, options.push_to_hub, options.private)} is uploaded")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        "python -m distill export",
        "Write the student of a run as an export with a model card, and upload it.",
    )
    parser.add_argument(
        "--run",
        type=Path,
        required=True,
        help="folder of the run; its newest checkpoint is taken if it has no export",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the export; an earlier export is replaced (default: export in the run's folder)",
    )
    parser.add_argument(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="upload the export to this repository of the Hugging Face hub, such as me/my-student",
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    options = parser.parse_args(arguments)
    if options.private and options.push_to_hub is None:
        raise UserError("--private: goes with --push-to-hub only")
    if options.push_to_hub is not None and not re.fullmatch("[^/]+/[^/]+", options.push_to_hub):
        raise UserError(f"--push-to-hub {options.push_to_hub}: expected OWNER/NAME, such as me/my-student")
    return options


def _refuse_to_replace(out: Path) -> None:
    """Refuse a folder that holds no export; checkpoints and teachers have a `config.json` too."""
    from distill.networks.folder import MANIFEST
    from distill.storage.files import check_new_folder

    check_new_folder(out, "--out")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    kind = read_mapping(out / CONFIG).get("kind") if (out / CONFIG).is_file() else None
    if (out / MANIFEST).exists() or kind != "generator":
        raise UserError(f"--out {out}: is there and holds no export; expected a new folder")
