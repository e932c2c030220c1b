"""The code of a model card, which makes one image of the student by the export's name."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from distill.config.command_line import as_called
from distill.networks.folder import ADAPTERS, is_own_pipeline
from distill.publishing.model_card.names import is_on_hub
from distill.publishing.run_record import Run
from distill.publishing.scene.card import scene_usage
from distill.publishing.scene.description import read_scene
from distill.storage.files import read_mapping


def render_usage(folder: Path, run: Run, export: dict[str, Any], name: str) -> str:
    """Write how to use the export: a call of a pipeline or a generator, or how to render a scene."""
    scene = read_scene(folder)
    if scene is None:
        return f"```python\n{_usage(folder, run, export, name)}\n```"
    imports, path = _opening(name)
    command = f"python sample.py --run {shlex.quote(name)} --views 24 --out views"
    if is_on_hub(name):
        command = f"hf download {name} --local-dir scene\npython sample.py --run scene --views 24 --out views"
    shape = tuple(export["network"]["pixel_shape"])
    return scene_usage(scene, shape, "\n".join(imports), path, as_called(command))


def _usage(folder: Path, run: Run, export: dict[str, Any], name: str) -> str:
    """Write Python that opens the export by its name and makes one image, or one sample of vectors."""
    call = export.get("call")
    if call is None:
        return _usage_of_generator(export, name)
    images = ".images" if call.get("return_dict", True) else "[0]"
    image = f"image = pipe({_arguments(call)}){images}[0]"
    if (folder / ADAPTERS).is_file():
        return _usage_of_adapters(folder, run.config["teacher"], name, image)
    arguments, comment = _quoted(name), ""
    if is_own_pipeline(folder):
        arguments += ", trust_remote_code=True"
        comment = "  # the package distill, which has the network, must be installed"
    lines = [
        f"from diffusers import DiffusionPipeline{comment}",
        "",
        f"pipe = DiffusionPipeline.from_pretrained({arguments})",
        image,
    ]
    return "\n".join(lines)


def _usage_of_adapters(folder: Path, teacher: dict[str, Any], name: str, image: str) -> str:
    """Write Python that loads adapters and a scheduler into the teacher's pipeline, ending in `image`."""
    scheduler = read_mapping(folder / "scheduler" / "scheduler_config.json")["_class_name"]
    base, call = _call_of_base(teacher)
    lines = [
        f"from diffusers import {scheduler}, {base}",
        "",
        f"pipe = {call}",
        f"pipe.load_lora_weights({_quoted(name)})",
        f'pipe.scheduler = {scheduler}.from_pretrained({_quoted(name)}, subfolder="scheduler")',
        image,
    ]
    return "\n".join(lines)


def _call_of_base(teacher: dict[str, Any]) -> tuple[str, str]:
    """Return the class of the teacher's pipeline, as far as it must be named, and Python that opens it."""
    from distill.networks.diffusers.opening.single_file import class_of, configuration_of, is_single_file

    if is_single_file(teacher["path"]):
        config = configuration_of(teacher["path"], teacher.get("config"))
        kind = class_of(config)
        return kind, f"{kind}.from_single_file({_quoted(teacher['path'])}, config={_quoted(config)})"
    given = {key: teacher[key] for key in ("revision", "variant") if teacher.get(key) is not None}
    arguments = ", ".join([_quoted(teacher["path"]), *([_arguments(given)] if given else [])])
    return "DiffusionPipeline", f"DiffusionPipeline.from_pretrained({arguments})"


def _usage_of_generator(export: dict[str, Any], name: str) -> str:
    """Write Python that calls the generator without a pipeline."""
    network = export["network"]
    # A network of diffusers without a pipeline call is always one of classes.
    has_labels = network.get("label_count") or network["class"] == "DiffusersNetwork"
    label = "torch.tensor([0])" if has_labels else ""
    imports, path = _opening(name)
    noise = "torch.randn(1, *generator.noise_shape)"
    lines = [
        *imports,
        "",
        "from distill import load_generator",
        "from distill.types import Condition",
        "",
        f"generator = load_generator({path})",
        "with torch.no_grad():",
        f"    sample = generator.decode(generator({noise}, Condition({label})))[0]",
    ]
    return "\n".join(lines)


def _opening(name: str) -> tuple[list[str], str]:
    """Return lines of imports, and Python for the folder of an export of this name."""
    if is_on_hub(name):
        imports = ["import torch", "from huggingface_hub import snapshot_download"]
        return imports, f"snapshot_download({_quoted(name)})"
    return ["import torch"], _quoted(name)


def _arguments(values: dict[str, Any]) -> str:
    """Write keyword arguments as Python."""
    return ", ".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _quoted(value: Any) -> str:
    """Write a value of JSON as Python."""
    return str(value) if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)
