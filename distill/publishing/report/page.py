"""`python -m distill report` writes a run's report.html, for people, and summary.json, for programs."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from distill.config.command_line import ArgumentParser
from distill.config.errors import writing_to
from distill.publishing.report.document import render_document
from distill.publishing.report.preference import render_preference
from distill.publishing.report.results import render_tiles
from distill.publishing.report.scene import render_scene
from distill.publishing.report.sections import (
    guard,
    render_calibration,
    render_definitions,
    render_images,
    render_monitor,
    render_provenance,
    render_results,
    render_samples,
    render_statistics,
    render_sweep,
    render_times,
    section,
)
from distill.publishing.report.story import tell_story
from distill.publishing.run_record import Run, note_of_features, read_run, summarise
from distill.storage.files import write_json, write_text


def render_page(run: Run, summary: dict[str, Any]) -> str:
    """Render the whole report as one HTML document."""
    body = "".join([_render_header(run, summary), *_render_sections(run)])
    return render_document(summary["name"], body)


def _render_header(run: Run, summary: dict[str, Any]) -> str:
    def render_lead() -> str:
        story = escape(tell_story(run, summary))
        count = len(run.evaluation.get("warnings") or ())
        warned = f"{count} warning{'s' if count > 1 else ''} of the evaluation: see Results." if count else ""
        note = f'<p class="note">{warned}</p>' if warned else ""
        return f'<p class="lead">{story}</p>{render_tiles(summary, run.distance)}{note}'

    header = f"<header><h1>{escape(summary['name'])}</h1>{guard(run.folder, render_lead)}</header>"
    note = note_of_features(run.meta)
    if note is not None:
        header += f'<p class="missing">{escape(note.capitalize())}.</p>'
    if not run.unreadable:
        return header
    lines = ", ".join(map(str, run.unreadable))
    return (
        f'{header}<p class="missing">Line {lines} of stats.jsonl is not a whole record and was skipped; '
        "a run killed while writing leaves one.</p>"
    )


def _render_sections(run: Run) -> list[str]:
    """Render the sections in the order in which a reader wants them."""
    evaluation = run.folder / "eval.json"
    preference = guard(run.folder / "preference.json", lambda: render_preference(run.folder, run.preference))
    return [
        guard(evaluation, lambda: render_definitions(run)),
        guard(run.folder, lambda: render_scene(run)),
        render_images(run),
        guard(evaluation, lambda: render_results(run)),
        section("Preference scores", preference) if preference else "",
        section("Distance during training", guard(run.folder, lambda: render_monitor(run))),
        guard(run.folder / "sweep.json", lambda: render_sweep(run)),
        render_statistics(run),
        guard(run.folder / "calibration.json", lambda: render_calibration(run)),
        section("Where the time went", render_times(run)),
        section("Samples over training", render_samples(run)),
        section("How to repeat it", render_provenance(run)),
    ]


def write_report(run_dir: Path) -> Path:
    """Write `report.html`, one file that needs no other, into the folder of a run."""
    run = read_run(run_dir)
    return _write_page(run, summarise(run))


def _write_page(run: Run, summary: dict[str, Any]) -> Path:
    path = run.folder / "report.html"
    page = render_page(run, summary)
    with writing_to(f"{path}:"):
        write_text(path, page)
    return path


def _write_summary(run: Run, summary: dict[str, Any]) -> Path:
    path = run.folder / "summary.json"
    with writing_to(f"{path}:"):
        write_json(path, summary)
    return path


def main(arguments: list[str]) -> None:
    """Write both files of a run and print its summary."""
    parser = ArgumentParser("python -m distill report", "Write report.html and summary.json of a run.")
    parser.add_argument("run", type=Path, help="folder of the run, such as runs/<name>")
    run = read_run(parser.parse_args(arguments).run)
    summary = summarise(run)
    print(f"wrote {_write_page(run, summary)} and {_write_summary(run, summary)}")
    print(json.dumps(summary, indent=2))
