"""`python -m eval report`: reads results, gathers their images, and writes one HTML file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from distill.config.errors import UserError
from distill.eval.page.arguments import PageOptions
from distill.eval.page.diversity import render_diversity
from distill.eval.page.evaluations import render_evaluations
from distill.eval.page.found import FoundResults, read_found
from distill.eval.page.gallery import render_gallery
from distill.eval.page.models import Comparison
from distill.eval.page.pictures import Gallery, gather_pictures
from distill.eval.page.tables import render_categories, render_distances, render_means
from distill.eval.preference.table import label
from distill.publishing.report.document import render_document
from distill.publishing.report.sections import section
from distill.storage.files import write_text

STYLES = Path(__file__).with_name("page.css")
SCRIPT = Path(__file__).with_name("page.js")


def run(options: PageOptions) -> None:
    """Write the page, and print what it holds and what it leaves out."""
    found = read_found(options.results)
    limit = options.max_mb * 10**6
    comparison = Comparison.of(found.scored, found.names) if found.scored else None
    gallery = None if comparison is None else gather_pictures(comparison.models, limit)
    page = render_page(found, comparison, gallery, options.title, limit)
    try:
        write_text(options.out, page)
    except OSError as error:
        raise UserError(f"--out {options.out}: cannot be written ({error.strerror})") from error
    for note in gallery.notes if gallery is not None else ():
        print(f"note: {note}", file=sys.stderr)
    print(f"{options.out} is written, {len(page.encode()) / 1e6:.2f} MB")


def render_page(
    found: FoundResults,
    comparison: Comparison | None,
    gallery: Gallery | None,
    title: str | None,
    limit: int,
) -> str:
    """Render the page; the parts of which there are no results are left out."""
    parts = []
    if comparison is not None and gallery is not None:
        parts.append(section("Scores", _render_scores(comparison)))
    if found.distances:
        parts.append(section("Distances", render_distances(found.distances, found.names)))
    if found.diversity:
        parts.append(section("Diversity", render_diversity(found.diversity, found.names)))
    if found.evaluations:
        # Grids have what small and large copies of the images leave of the limit.
        used = 0 if gallery is None else gallery.bytes
        parts.append(section("Runs", render_evaluations(found.evaluations, found.names, limit - used)))
    if comparison is not None and gallery is not None:
        parts.append(render_gallery(comparison, gallery))
    heading = title or _title(comparison)
    header = f"<header><h1>{escape(heading)}</h1>{_render_lead(comparison)}</header>"
    script = SCRIPT.read_text(encoding="utf-8") if comparison is not None else ""
    return render_document(heading, header + "".join(parts), STYLES.read_text(encoding="utf-8"), script)


def _title(comparison: Comparison | None) -> str:
    if comparison is None:
        return "Results side by side"
    names = [model.name for model in comparison.models]
    if len(names) == 1:
        return names[0]
    return " and ".join(names) if len(names) == 2 else f"{len(names)} models side by side"


def _render_lead(comparison: Comparison | None) -> str:
    """Say what was measured, and on which prompts and seeds."""
    if comparison is None:
        return ""
    labels = dict.fromkeys(label(model.results) for model in comparison.models)
    return f'<p class="lead">{escape(_sentence(list(labels)))}</p>'


def _sentence(labels: Sequence[str]) -> str:
    text = "; ".join(labels)
    return f"Images of the same prompts and seeds: {text}."


def _render_scores(comparison: Comparison) -> str:
    """Show means and categories, the conventions of the scores, and the notes on each model."""
    conventions = dict.fromkeys(str(facts.get("convention", "")) for facts in comparison.scores.values())
    said = " ".join(text for text in conventions if text)
    notes = "".join(
        f"<li><b>{escape(model.name)}</b>: {escape(doubt)}</li>"
        for model in comparison.models
        for doubt in model.doubts
    )
    listed = f'<ul class="notes">{notes}</ul>' if notes else ""
    note = f'<p class="note">{escape(said)}</p>' if said else ""
    return f"{note}{render_means(comparison)}{listed}{render_categories(comparison)}"
