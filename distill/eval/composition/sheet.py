"""A contact sheet of a benchmark: the best and the worst images of each category, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill.eval.composition.result_types import CompositionResults
from distill.eval.preference.contact_sheet import Tile, draw_sheet
from distill.eval.preference.images import PromptedImages
from distill.eval.preference.table import label
from distill.storage.files import new_file

EACH = 3
"""Maximum number of best and of worst images of a category."""


def save_sheet(out: Path, results: CompositionResults, images: PromptedImages) -> None:
    """Draw the sheet, `NAME.png` beside `NAME.json`, and record its name in the results."""
    categories = images.prompts.categories or {results["title"]: list(range(len(images.prompts)))}
    groups = {name: _tiles(results, images, numbers) for name, numbers in categories.items()}
    sheet = draw_sheet(f"{results['title']}: {images.origin}, {label(results)}", groups)
    file = out.with_suffix(".png")
    with new_file(file) as partial:
        sheet.save(partial, "png")
    results["sheet"] = file.name


def choose(scores: Sequence[float], each: int = EACH) -> list[int]:
    """Choose at most `each` of the best and of the worst images, best first, none twice."""
    order = sorted(range(len(scores)), key=lambda row: -scores[row])
    if len(order) <= 2 * each:
        return order
    return order[:each] + order[-each:]


def _tiles(results: CompositionResults, images: PromptedImages, numbers: Sequence[int]) -> list[Tile]:
    """Return tiles of images of the prompts of one category."""
    rows = [row for row in range(len(images)) if row % len(images.prompts) in numbers]
    chosen = choose([results["images"][row]["score"] for row in rows])
    tiles = []
    for row in [rows[place] for place in chosen]:
        judged = results["images"][row]
        caption = f"{judged['reason']}: {images.prompt(row)}" if judged["reason"] else images.prompt(row)
        tiles.append(Tile([images.pixels(row)], f"{judged['score']:.2f}", caption))
    return tiles
