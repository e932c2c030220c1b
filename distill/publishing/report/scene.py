"""The part of a run's report about scenes in three dimensions: a turntable of each particle."""

from __future__ import annotations

import shlex
from html import escape

from distill.config.command_line import as_called
from distill.publishing.report import charts
from distill.publishing.report.sections import missing, section
from distill.publishing.run_record import Run
from distill.publishing.scene.description import read_scene, turntable_name


def render_scene(run: Run) -> str:
    """Show the turntable of each particle in the run's export; nothing if the run has no scene."""
    sizes = read_scene(run.folder)
    if sizes is None:
        return ""
    figures = ""
    for particle in range(sizes.particles):
        path = run.folder / "export" / turntable_name(particle)
        figures += charts.image(path, f"Particle {particle}|of {sizes.particles}, from all sides") or ""
    if not figures:
        name = f"export/{turntable_name(0)}"
        return section("Scene", missing(f"There is no readable {name}.", run.train_command))
    folder = shlex.quote(str(run.folder))
    command = as_called(f"python sample.py --run {folder} --views 24 --out {folder}/views")
    note = (
        f"Pictures, depth, normals and meshes of each particle are written by <code>{escape(command)}</code>"
    )
    return section("Scene", f'<p class="note">{note}</p><div class="row">{figures}</div>')
