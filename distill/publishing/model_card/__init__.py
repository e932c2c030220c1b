"""The model card of an export, its `README.md`: how to call it, results, recipe and licence."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from distill.config.errors import reading
from distill.networks.folder import read_description
from distill.publishing.model_card.licence import read_licence, say_licence
from distill.publishing.model_card.metadata import link_teacher, render_metadata
from distill.publishing.model_card.names import CARD, is_on_hub, makes_images
from distill.publishing.model_card.results import render_recipe, render_results
from distill.publishing.model_card.usage import render_usage
from distill.publishing.run_record import Run, read_run, say_method, student_cost
from distill.publishing.scene.description import read_scene, say_particles
from distill.storage.files import new_file, write_text

PICTURE = "samples.png"
LOCAL_PATH = re.compile(r"(?<![\w:/.~-])/[\w./-]*[\w-]")


def write_card(folder: Path, run_dir: Path, name: str | None = None) -> None:
    """Write the card of a run's export.

    The card opens the export by `name`, such as its name on the hub; the default is its path in the run's
    folder.
    """
    run = read_run(run_dir)
    export = read_description(folder, "generator")
    name = name or str(run_dir / "export")
    with reading(run_dir):
        settings = run.config.get("teacher") or {}
        teacher, licence = link_teacher(settings), read_licence(settings)
        sections = [
            render_metadata(folder, run, export, licence),
            f"# {run_dir.resolve().name}",
            f"{_summary(folder, run)} Distilled from {teacher} by {say_method(run.config)}.",
            *_picture(folder, run),
            "## Use",
            render_usage(folder, run, export, name),
            "## Results",
            render_results(run),
            "## Recipe",
            render_recipe(run),
            "## Licence",
            say_licence(licence, teacher),
        ]
    text = "\n\n".join(sections) + "\n"
    write_text(folder / CARD, _without_local_paths(text) if is_on_hub(name) else text)


def _picture(folder: Path, run: Run) -> list[str]:
    """Copy a grid of the student's images into the export and show it; nothing if there is none.

    It is that of the evaluation, or else the last one of training.
    """
    if not makes_images(folder):
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
    return f"Makes each {'image' if makes_images(folder) else 'sample'} in {student_cost(run)}."
