"""What an exported student says about itself, `README.md` as the Hugging Face hub shows it: how to call it, results, recipe, licence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from distill.export import ADAPTERS, CONFIG, is_pipeline
from distill.files import read_json, write_text
from distill.report import Run, method_of, read_run, student_cost

CARD = "README.md"
SHOWN = {"precision": "precision", "recall": "recall", "label_agreement": "label agreement", "memorised": "nearer to training images"}
"""Results of `python -m eval` beside the distance, and their names in the table."""


def write_card(folder: Path, run_dir: Path, name: str | None = None) -> None:
    """Write the card of a run's export, which is to be called `name`, or else the run's. Raises UserError where the folder is no run."""
    run, description = read_run(run_dir), read_json(folder / CONFIG)
    teacher = str(run.config.get("teacher", {}).get("path", "its teacher"))
    sections = [
        _front_matter(run, description, teacher),
        f"# {run_dir.resolve().name}\n\nMakes an image in {student_cost(run)}. Distilled from {_linked(teacher)} by {method_of(run.config)}.",
        f"## Use\n\n```python\n{_usage(folder, description, teacher, name or str(run_dir / 'export'))}\n```",
        f"## Results\n\n{_results(run)}",
        f"## Recipe\n\n{_recipe(run)}",
        f"## Licence\n\nWeights that were learned from a teacher and from data are bound by the licences of both: see that of {_linked(teacher)}"
        " and of the data in the recipe. This file grants nothing.",
    ]
    write_text(folder / CARD, "\n\n".join(sections) + "\n")


def _front_matter(run: Run, description: dict[str, Any], teacher: str) -> str:
    takes_text = "prompts" in run.config and run.config["prompts"] is not None
    objective = str(run.config.get("objective", {}).get("name", "distilled"))
    entries: dict[str, Any] = {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image" if takes_text else "unconditional-image-generation",
        "tags": [
            "few-step" if description.get("further_noise_to_signal") else "one-step",
            "diffusion-distillation",
            objective,
            description["network"]["class"],
        ],
    }
    if _is_hub_name(teacher):
        entries["base_model"] = teacher
    return f"---\n{yaml.safe_dump(entries, sort_keys=False)}---"


def _usage(folder: Path, description: dict[str, Any], teacher: str, name: str) -> str:
    steps = 1 + len(description.get("further_noise_to_signal", ()))
    call = f'image = pipe("a cat in a hat", num_inference_steps={steps}, guidance_scale=0).images[0]'
    if (folder / ADAPTERS).is_file():
        scheduler = read_json(folder / "scheduler" / "scheduler_config.json")["_class_name"]
        return "\n".join(
            [
                f"from diffusers import {scheduler}, DiffusionPipeline",
                "",
                f'pipe = DiffusionPipeline.from_pretrained("{teacher}")',
                f'pipe.load_lora_weights("{name}")',
                f'pipe.scheduler = {scheduler}.from_pretrained("{name}", subfolder="scheduler")',
                call,
            ]
        )
    if is_pipeline(folder):
        names = read_json(folder / "model_index.json")
        call = call if "tokenizer" in names else f"image = pipe({'[0], ' if 'transformer' in names else ''}num_inference_steps={steps}).images[0]"
        return f'from diffusers import DiffusionPipeline\n\npipe = DiffusionPipeline.from_pretrained("{name}")\n{call}'
    labels = "class_labels=[0]" if description["network"].get("label_count") else "batch_size=1"
    return (
        "from diffusers import DiffusionPipeline  # beside the package distill\n\n"
        f'pipe = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)\nimage = pipe({labels}).images[0]'
    )


def _results(run: Run) -> str:
    student, teacher = (run.evaluation.get(role) or {} for role in ("student", "teacher"))
    if not student:
        return f"Not measured yet; `{run.eval_command}` does and writes them here."
    protocol, distance = run.evaluation.get("protocol", "fd-pixel"), run.distance
    rows = [f"| | student, {student_cost(run)} an image | teacher |", "|---|---|---|"]
    for key, name in {distance: protocol, **SHOWN}.items():
        if key in student:
            rows.append(f"| {name} | {student[key]:.4g} | {format(teacher[key], '.4g') if key in teacher else ''} |")
    return "\n".join([*rows, "", f"{run.evaluation.get('n')} images from seed {run.evaluation.get('seed', 0)}, against the training images."])


def _recipe(run: Run) -> str:
    last = run.lines[-1] if run.lines else {}
    done = f"{last['step']} steps, {last['images']} images of the student, {last['seconds']:.0f} s; " if last else ""
    versions = ", ".join(f"{name} {version}" for name, version in run.meta.get("versions", {}).items())
    origin = f"{done}{run.meta.get('machine')}; commit {run.meta.get('commit')}; {versions}."
    return f"{origin}\n\n```yaml\n{yaml.safe_dump(run.config, sort_keys=False)}```"


def _is_hub_name(teacher: str) -> bool:
    return teacher.count("/") == 1 and not Path(teacher).exists() and not Path(teacher).suffix


def _linked(teacher: str) -> str:
    return f"[{teacher}](https://huggingface.co/{teacher})" if _is_hub_name(teacher) else f"`{teacher}`"
