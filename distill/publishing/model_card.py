"""The model card of an export, its `README.md`: how to call it, results, recipe and licence."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import yaml

from distill.config.command_line import as_called
from distill.config.errors import reading
from distill.networks.folder import ADAPTERS, PIPELINE, is_own_pipeline, read_description
from distill.publishing.run_record import Run, method_of, read_run, student_cost
from distill.publishing.scene.card import scene_usage
from distill.publishing.scene.description import SCENE, read_scene, say_particles
from distill.storage.files import new_file, read_mapping, write_text

CARD = "README.md"
RESULTS = {
    "precision": "precision",
    "recall": "recall",
    "diversity": "diversity within a condition",
    "label_agreement": "label agreement",
    "memorised": "nearer to training images",
    "reverse_kl": "reverse KL",
    "forward_kl": "forward KL",
    "jensen_shannon": "Jensen-Shannon",
    "mode_error": "error of the modes' shares",
}
"""Results of `python -m eval` other than the distance, and their names in the card's table."""
PICTURE = "samples.png"
LOCAL_PATH = re.compile(r"(?<![\w:/.~-])/[\w./-]*[\w-]")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(folder: Path, run_dir: Path, name: str | None = None) -> None:
    """Write the card of a run's export.

    The card opens the export by `name`, such as its name on the hub; the default is its path in the run's
    folder.
    """
    run = read_run(run_dir)
    export = read_description(folder, "generator")
    name = name or str(run_dir / "export")
    with reading(run_dir):
        teacher = _link_teacher(run.config.get("teacher") or {})
        sections = [
            _front_matter(folder, run, export),
            f"# {run_dir.resolve().name}",
            f"{_summary(folder, run)} Distilled from {teacher} by {method_of(run.config)}.",
            *_picture(folder, run),
            "## Use",
            _use(folder, run, export, name),
            "## Results",
            _results(run),
            "## Recipe",
            _recipe(run),
            "## Licence",
            "Weights that were learned from a teacher and from data are bound by the licences of both: "
            f"see that of {teacher} and of the data in the recipe. This file grants nothing.",
        ]
    text = "\n\n".join(sections) + "\n"
    write_text(folder / CARD, _without_local_paths(text) if _is_on_hub(name) else text)


def _picture(folder: Path, run: Run) -> list[str]:
    """Copy a grid of the student's images into the export and show it; nothing if there is none.

    It is that of the evaluation, or else the last one of training.
    """
    if not _makes_images(folder):
        return []
    grids = [run.folder / "eval" / "student.png", *sorted((run.folder / "samples").glob("step-*.png"))[::-1]]
    for grid in grids:
        if grid.is_file():
            with new_file(folder / PICTURE) as partial:
                shutil.copyfile(grid, partial)
            return [f"![Images of the student]({PICTURE})"]
    return []


def _without_local_paths(text: str) -> str:
    """Cut each absolute path that is on this machine to its last name."""
    return LOCAL_PATH.sub(lambda found: _last_name(found.group()), text)


def _last_name(path: str) -> str:
    return Path(path).name if Path(path).exists() else path


def _summary(folder: Path, run: Run) -> str:
    """Say in one sentence what the export is."""
    scene = read_scene(folder)
    if scene is not None:
        return f"Holds {say_particles(scene)}, rendered from any side."
    return f"Makes each {'image' if _makes_images(folder) else 'sample'} in {student_cost(run)}."


def _use(folder: Path, run: Run, export: dict[str, Any], name: str) -> str:
    """Write how to use the export: a call of a pipeline or a generator, or how to render a scene."""
    scene = read_scene(folder)
    if scene is None:
        return f"```python\n{_usage(folder, run, export, name)}\n```"
    imports, path = _opening(name)
    command = f"python sample.py --run {shlex.quote(name)} --views 24 --out views"
    if _is_on_hub(name):
        command = f"hf download {name} --local-dir scene\npython sample.py --run scene --views 24 --out views"
    shape = tuple(export["network"]["pixel_shape"])
    return scene_usage(scene, shape, "\n".join(imports), path, as_called(command))


def _front_matter(folder: Path, run: Run, export: dict[str, Any]) -> str:
    """Write the metadata that the hub sorts models by."""
    is_adapter = (folder / ADAPTERS).is_file()
    is_scene = export["network"]["class"] == SCENE
    kind = "few-step" if export.get("further_noise_to_signal") else "one-step"
    tags = [
        "3d" if is_scene else kind,
        "diffusion-distillation",
        (run.config.get("objective") or {}).get("name"),
        export["network"]["class"],
        "lora" if is_adapter else None,
    ]
    entries: dict[str, Any] = {
        "library_name": "diffusers" if _makes_images(folder) else "distill",
        "tags": [tag for tag in tags if tag],
    }
    has_prompts = run.config.get("prompts") is not None
    if is_scene:
        return _yaml_front({**entries, "pipeline_tag": "text-to-3d"} if has_prompts else entries)
    if _makes_images(folder):
        entries["pipeline_tag"] = "text-to-image" if has_prompts else "unconditional-image-generation"
    base = _hub_name(run.config.get("teacher") or {})
    if base is not None:
        entries["base_model"] = base
        entries["base_model_relation"] = "adapter" if is_adapter else "finetune"
    return _yaml_front(entries)


def _yaml_front(entries: dict[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(entries, sort_keys=False)}---"


def _makes_images(folder: Path) -> bool:
    return (folder / PIPELINE).is_file() or (folder / ADAPTERS).is_file()


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
    if _is_on_hub(name):
        imports = ["import torch", "from huggingface_hub import snapshot_download"]
        return imports, f"snapshot_download({_quoted(name)})"
    return ["import torch"], _quoted(name)


def _is_on_hub(name: str) -> bool:
    return HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def _results(run: Run) -> str:
    """Show a table of `eval.json`, and the distance in `fid.json`, as far as the run has them."""
    fid = _fid_result(run.folder / "fid.json")
    if not run.evaluation.get("student"):
        return fid or f"Not measured yet; `{run.eval_command}` does and writes them here."
    with reading(run.folder / "eval.json"):
        lines = _table(run, run.evaluation["student"], run.evaluation.get("teacher") or {})
    if fid:
        lines += ["", fid]
    return "\n".join(lines)


def _table(run: Run, student: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    evaluation = run.evaluation
    evaluations = (evaluation.get("sampling") or {}).get("teacher_evaluations")
    cost = f", {evaluations} evaluations" if evaluations else ""
    lines = [f"| | student, {student_cost(run)} | teacher{cost} |", "|---|---|---|"]
    distance = f"{evaluation.get('protocol', 'fd-pixel')}, a Fréchet distance"
    for key, name in {run.distance: distance, **RESULTS}.items():
        if key in student:
            theirs = f"{teacher[key]:.4g}" if key in teacher else ""
            lines.append(f"| {name} | {student[key]:.4g} | {theirs} |")
    samples = f"Over {evaluation.get('n')} samples from seed {evaluation.get('seed', 0)}"
    return [*lines, "", f"{samples}, by `{run.eval_command}`."]


def _fid_result(path: Path) -> str:
    """Say the student's distances that `python -m eval fid --out` wrote, if it did."""
    content = read_mapping(path) if path.is_file() else {}
    with reading(path):
        several = content["results"].values() if "results" in content else [content]
        return "\n".join(text for text in map(_fid_sentence, several) if text)


def _fid_sentence(results: dict[str, Any]) -> str:
    """Say the distance under one protocol; empty unless it is the student's."""
    if results.get("source", {}).get("of") != "the student":
        return ""
    protocol = " and ".join([f"`{results['protocol']}`", *results["departures"]])
    distance = f"{results['metric']} {results['summary']['fd']['mean']:.4g}"
    return f"{distance} under {protocol}, {results['n']} images, by `python -m eval fid`."


def _recipe(run: Run) -> str:
    """Say what the run did, on which machine, with which versions, and show its configuration."""
    facts = []
    if run.lines:
        last = run.lines[-1]
        facts.append(f"{last['step']} steps, {last['images']} images of the student, {last['seconds']:.0f} s")
    if run.meta.get("machine"):
        facts.append(str(run.meta["machine"]))
    if run.meta.get("commit"):
        facts.append(f"commit {run.meta['commit']}")
    if run.meta.get("versions"):
        facts.append(", ".join(f"{name} {version}" for name, version in run.meta["versions"].items()))
    origin = "; ".join(facts)
    config = f"```yaml\n{yaml.safe_dump(run.config, sort_keys=False, width=140)}```"
    return f"{origin}.\n\n{config}" if origin else config


def _hub_name(teacher: dict[str, Any]) -> str | None:
    """Return the teacher's name on the hub, or None for one from elsewhere."""
    path = str(teacher.get("path"))
    if teacher.get("name") != "diffusers" or not HUB_NAME.fullmatch(path) or Path(path).exists():
        return None
    return path


def _link_teacher(teacher: dict[str, Any]) -> str:
    """Name the teacher in Markdown."""
    name = _hub_name(teacher)
    if name is not None:
        return f"[{name}](https://huggingface.co/{name})"
    if teacher.get("path"):
        return f"`{teacher['path']}`"
    return f"a teacher of the kind `{teacher.get('name')}`"


def _arguments(values: dict[str, Any]) -> str:
    """Write keyword arguments as Python."""
    return ", ".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _quoted(value: Any) -> str:
    """Write a value of JSON as Python."""
    return str(value) if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)
