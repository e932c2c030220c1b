"""What an exported student says about itself, `README.md` as the Hugging Face hub shows it: how to call it, results, recipe, licence."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from distill.config.errors import reading
from distill.networks.folder import ADAPTERS, PIPELINE, is_own_pipeline, read_description
from distill.publishing.run_record import Run, method_of, read_run, student_cost
from distill.storage.files import read_mapping, write_text

CARD = "README.md"
SHOWN = {
    "precision": "precision",
    "recall": "recall",
    "label_agreement": "label agreement",
    "memorised": "nearer to training images",
    "reverse_kl": "reverse KL",
    "forward_kl": "forward KL",
    "jensen_shannon": "Jensen-Shannon",
    "mode_error": "error of the modes' shares",
}
"""Results of `python -m eval` beside the distance, and their names in the table."""
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def write_card(folder: Path, run_dir: Path, name: str | None = None) -> None:
    """Write the card of a run's export, which is to be called `name`, or else by its place in the run.

    Raises UserError where the folder is no export or the other no run, or a file of one of them is broken.
    """
    run, export = read_run(run_dir), read_description(folder, "generator")
    thing = "image" if _makes_images(folder) else "sample"
    with reading(run_dir):
        shown = _shown(run.config.get("teacher") or {})
        sections = [
            _front_matter(folder, run, export),
            f"# {run_dir.resolve().name}\n\nMakes each {thing} in {student_cost(run)}. Distilled from {shown} by {method_of(run.config)}.",
            f"## Use\n\n```python\n{_usage(folder, run, export, name or str(run_dir / 'export'))}\n```",
            f"## Results\n\n{_results(run)}",
            f"## Recipe\n\n{_recipe(run)}",
            "## Licence\n\nWeights that were learned from a teacher and from data are bound by the licences of both: see that of "
            f"{shown} and of the data in the recipe. This file grants nothing.",
        ]
    write_text(folder / CARD, "\n\n".join(sections) + "\n")


def _front_matter(folder: Path, run: Run, export: dict[str, Any]) -> str:
    """What the hub sorts by."""
    adapters, objective = (folder / ADAPTERS).is_file(), (run.config.get("objective") or {}).get("name")
    steps = "few-step" if export.get("further_noise_to_signal") else "one-step"
    tags = [
        steps,
        "diffusion-distillation",
        objective,
        export["network"]["class"],
        "lora" if adapters else None,
    ]
    entries: dict[str, Any] = {
        "library_name": "diffusers" if _makes_images(folder) else "distill",
        "tags": [tag for tag in tags if tag],
    }
    if _makes_images(folder):
        entries["pipeline_tag"] = (
            "unconditional-image-generation" if run.config.get("prompts") is None else "text-to-image"
        )
    base = _on_hub(run.config.get("teacher") or {})
    if base is not None:
        entries |= {"base_model": base, "base_model_relation": "adapter" if adapters else "finetune"}
    return f"---\n{yaml.safe_dump(entries, sort_keys=False)}---"


def _makes_images(folder: Path) -> bool:
    return (folder / PIPELINE).is_file() or (folder / ADAPTERS).is_file()


def _usage(folder: Path, run: Run, export: dict[str, Any], name: str) -> str:
    """Python that opens the export by its name and makes one image, or a sample of what are no images."""
    call = export.get("call")
    if call is None:
        return _usage_of_package(export, name)
    image = f"image = pipe({_arguments(call)}).images[0]"
    if (folder / ADAPTERS).is_file():
        teacher = run.config["teacher"]
        scheduler = read_mapping(folder / "scheduler" / "scheduler_config.json")["_class_name"]
        place = {key: teacher[key] for key in ("revision", "variant") if teacher.get(key) is not None}
        lines = [
            f"from diffusers import {scheduler}, DiffusionPipeline",
            "",
            f"pipe = DiffusionPipeline.from_pretrained({', '.join([_quoted(teacher['path']), *([_arguments(place)] if place else [])])})",
            f"pipe.load_lora_weights({_quoted(name)})",
            f'pipe.scheduler = {scheduler}.from_pretrained({_quoted(name)}, subfolder="scheduler")',
            image,
        ]
    elif is_own_pipeline(folder):
        lines = [
            "from diffusers import DiffusionPipeline  # the package distill, which has the network, must be installed",
            "",
            f"pipe = DiffusionPipeline.from_pretrained({_quoted(name)}, trust_remote_code=True)",
            image,
        ]
    else:
        lines = [
            "from diffusers import DiffusionPipeline",
            "",
            f"pipe = DiffusionPipeline.from_pretrained({_quoted(name)})",
            image,
        ]
    return "\n".join(lines)


def _usage_of_package(export: dict[str, Any], name: str) -> str:
    """The same without a pipeline."""
    # A network of diffusers has a pipeline, but for one of classes.
    label = (
        "torch.tensor([0])"
        if export["network"].get("label_count") or export["network"]["class"] == "DiffusersNetwork"
        else ""
    )
    place, fetch = _quoted(name), []
    if HUB_NAME.fullmatch(name) and not Path(name).exists():
        place, fetch = f"snapshot_download({place})", ["from huggingface_hub import snapshot_download"]
    lines = [
        "import torch",
        *fetch,
        "",
        "from distill import load_generator",
        "from distill.types import Condition",
        "",
        f"generator = load_generator({place})",
        "with torch.no_grad():",
        f"    sample = generator.decode(generator(torch.randn(1, *generator.noise_shape), Condition({label})))[0]",
    ]
    return "\n".join(lines)


def _results(run: Run) -> str:
    """A table of `eval.json`, and the distance in `fid.json`, as far as they are there."""
    student, teacher = (run.evaluation.get(role) or {} for role in ("student", "teacher"))
    named = _named_result(run.folder / "fid.json")
    if not student:
        return named or f"Not measured yet; `{run.eval_command}` does and writes them here."
    with reading(run.folder / "eval.json"):
        return "\n".join([*_table(run, student, teacher), *(["", named] if named else [])])


def _table(run: Run, student: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    evaluations = (run.evaluation.get("sampling") or {}).get("teacher_evaluations")
    rows = [
        f"| | student, {student_cost(run)} | teacher{f', {evaluations} evaluations' if evaluations else ''} |",
        "|---|---|---|",
    ]
    for key, name in {
        run.distance: f"{run.evaluation.get('protocol', 'fd-pixel')}, a Fréchet distance",
        **SHOWN,
    }.items():
        if key in student:
            rows.append(
                f"| {name} | {student[key]:.4g} | {format(teacher[key], '.4g') if key in teacher else ''} |"
            )
    return [
        *rows,
        "",
        f"Over {run.evaluation.get('n')} samples from seed {run.evaluation.get('seed', 0)}, by `{run.eval_command}`.",
    ]


def _named_result(path: Path) -> str:
    """The student's distance that `python -m eval fid --out` wrote there, if it did."""
    results = read_mapping(path) if path.is_file() else {}
    with reading(path):
        if results.get("source", {}).get("of") != "the student":
            return ""
        name = " and ".join([f"`{results['protocol']}`", *results["departures"]])
        return f"{results['metric']} {results['summary']['fd']['mean']:.4g} under {name}, {results['n']} images, by `python -m eval fid`."


def _recipe(run: Run) -> str:
    """What the run did, where, with what, and its configuration."""
    last = run.lines[-1] if run.lines else {}
    facts = (
        [f"{last['step']} steps, {last['images']} images of the student, {last['seconds']:.0f} s"]
        if last
        else []
    )
    facts += [str(run.meta["machine"])] if run.meta.get("machine") else []
    facts += [f"commit {run.meta['commit']}"] if run.meta.get("commit") else []
    facts += [", ".join(f"{name} {version}" for name, version in run.meta.get("versions", {}).items())]
    origin = "; ".join(fact for fact in facts if fact)
    config = f"```yaml\n{yaml.safe_dump(run.config, sort_keys=False, width=140)}```"
    return f"{origin}.\n\n{config}" if origin else config


def _on_hub(teacher: dict[str, Any]) -> str | None:
    """The teacher's name on the hub, if it is from there."""
    path = str(teacher.get("path"))
    return (
        path
        if teacher.get("name") == "diffusers" and HUB_NAME.fullmatch(path) and not Path(path).exists()
        else None
    )


def _shown(teacher: dict[str, Any]) -> str:
    """The teacher as Markdown."""
    name = _on_hub(teacher)
    if name is not None:
        return f"[{name}](https://huggingface.co/{name})"
    return f"`{teacher['path']}`" if teacher.get("path") else f"a teacher of the kind `{teacher.get('name')}`"


def _arguments(values: dict[str, Any]) -> str:
    return ", ".join(f"{name}={_quoted(value)}" for name, value in values.items())


def _quoted(value: Any) -> str:
    """A value of JSON as Python has it."""
    return str(value) if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)
