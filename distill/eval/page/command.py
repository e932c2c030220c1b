"""`python -m eval report`: reads results, gathers their images, and writes one HTML file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from distill.config.errors import writing_to
from distill.eval.page.arguments import PageOptions
from distill.eval.page.diversity import render_diversity
from distill.eval.page.evaluations import render_evaluations
from distill.eval.page.found import FoundResults, read_found
from distill.eval.page.gallery import render_gallery
from distill.eval.page.models import Comparison
from distill.eval.page.pictures import Gallery, gather_pictures
from distill.eval.page.tables import render_categories, render_distances, render_means
from distill.eval.preference.table import label
from distill.eval.results.names import distinct_names
from distill.publishing.report.document import render_document
from distill.publishing.report.sections import section
from distill.storage.files import write_text

STYLES = Path(__file__).with_name("page.css")
SCRIPT = Path(__file__).with_name("page.js")


def run(options: PageOptions) -> None:
    """Write the page, and print what it holds and what it leaves out."""
    found = read_found(options.results)
    limit = options.max_mb * 10**6
    comparisons = Comparison.by_prompts(found.scored, found.names)
    shown = [(one, gather_pictures(one.models, limit // len(comparisons))) for one in comparisons]
    page = render_page(found, shown, options.title, limit)
    with writing_to(f"--out {options.out}:"):
        write_text(options.out, page)
    for _, gallery in shown:
        for note in gallery.notes:
            print(f"note: {note}", file=sys.stderr)
    print(f"{options.out} is written, {len(page.encode()) / 1e6:.2f} MB")


def render_page(
    found: FoundResults, shown: Sequence[tuple[Comparison, Gallery]], title: str | None, limit: int
) -> str:
    """Render the page; the parts of which there are no results are left out.

    Scores and images of each list of prompts have sections of their own.
    """
    comparisons = [comparison for comparison, _ in shown]
    lists = distinct_names({one.models[0].file: one.prompt_set for one in comparisons})
    which = [f" of {name}" if len(shown) > 1 else "" for name in lists.values()]
    parts = [
        section(f"Scores{name}", _render_scores(one)) for name, one in zip(which, comparisons, strict=True)
    ]
    if found.distances:
        parts.append(section("Distances", render_distances(found.distances, found.names)))
    if found.diversity:
        parts.append(section("Diversity", render_diversity(found.diversity, found.names)))
    if found.evaluations:
        # Grids have what small and large copies of the images leave of the limit.
        used = sum(gallery.bytes for _, gallery in shown)
        parts.append(section("Runs", render_evaluations(found.evaluations, found.names, limit - used)))
    parts += [render_gallery(f"Images{name}", *one) for name, one in zip(which, shown, strict=True)]
    heading = title or _title(comparisons)
    header = f"<header><h1>{escape(heading)}</h1>{_render_lead(comparisons)}</header>"
    script = SCRIPT.read_text(encoding="utf-8") if shown else ""
    return render_document(heading, header + "".join(parts), STYLES.read_text(encoding="utf-8"), script)


def _title(comparisons: Sequence[Comparison]) -> str:
    names = list(dict.fromkeys(model.name for one in comparisons for model in one.models))
    if len(names) > 2:
        return f"{len(names)} models side by side"
    return " and ".join(names) or "Results side by side"


def _render_lead(comparisons: Sequence[Comparison]) -> str:
    """Say what was measured, and on which prompts and seeds."""
    labels = dict.fromkeys(label(model.results) for one in comparisons for model in one.models)
    if not labels:
        return ""
    text = f"Images of the same prompts and seeds: {'; '.join(labels)}."
    return f'<p class="lead">{escape(text)}</p>'


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
