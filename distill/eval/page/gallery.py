"""The images of a page: a row for each prompt and seed, a column for each model, and controls."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from distill.eval.page.models import Comparison
from distill.eval.page.pictures import Gallery, Picture
from distill.publishing.report.sections import section

DIGITS = 4
"""Significant digits of the largest of a score's values; all have as many decimals."""


def render_gallery(title: str, comparison: Comparison, gallery: Gallery) -> str:
    """Show the images of all models under controls that filter and sort them."""
    notes = "".join(f'<p class="missing">{escape(note)}</p>' for note in gallery.notes)
    decimals = {name: decimals_of_score(comparison, name) for name in comparison.scores}
    rows = "".join(_render_row(comparison, gallery, decimals, row) for row in range(len(comparison.seeds)))
    body = (
        f'{notes}<div class="gallery">{_render_controls(comparison)}'
        f'<div class="comparison" style="--models: {len(comparison.models)}">{_render_heads(comparison)}'
        f'<ol class="rows">{rows}</ol></div>{VIEWER}{_render_data(comparison, gallery, decimals)}</div>'
    )
    return section(title, body)


VIEWER = (
    '<dialog aria-label="Image"><figure><div class="frame"><img alt=""></div>'
    "<figcaption></figcaption></figure><div class=buttons>"
    '<button type="button" data-move="-1" aria-label="Previous model">←</button>'
    '<button type="button" data-move="1" aria-label="Next model">→</button>'
    '<button type="button" data-close>Close</button></div></dialog>'
)
"""The dialog in which an image opens."""


def _render_controls(comparison: Comparison) -> str:
    """Write the form whose fields filter and sort the rows; it is hidden where scripts do not run."""
    scores = _options([(name, facts["title"]) for name, facts in comparison.scores.items()])
    models = _options([(str(place), model.name) for place, model in enumerate(comparison.models)])
    orders = _options([("list", "order of the list"), ("prompt", "prompt"), ("category", "category")])
    categories = list(dict.fromkeys(name for name in comparison.categories if name is not None))
    chosen = ""
    if len(categories) > 1:
        listed = _options([("", "all"), *((name, name) for name in categories)])
        chosen = _field("Category", f'<select name="category">{listed}</select>')
    text = '<input name="filter" type="search" placeholder="words of the prompt" autocomplete="off">'
    order = f'<select name="order">{orders}<optgroup label="score">{scores}</optgroup></select>'
    minus = f'<select name="minus"><option value="">nothing</option>{models}</select>'
    direction = '<button name="direction" type="button">descending</button>'
    fields = [
        _field("Filter", text),
        chosen,
        _field("Sort by", order),
        _field("of", f'<select name="model">{models}</select>'),
        _field("minus", minus) if len(comparison.models) > 1 else "",
        direction,
    ]
    return (
        f'<form class="controls" role="search" hidden>{"".join(fields)}'
        '<output name="count" aria-live="polite"></output></form>'
    )


def _options(names: Sequence[tuple[str, str]]) -> str:
    return "".join(f'<option value="{escape(value)}">{escape(name)}</option>' for value, name in names)


def _field(name: str, control: str) -> str:
    return f"<label><span>{name}</span>{control}</label>"


def _render_heads(comparison: Comparison) -> str:
    """Name the models above their columns; a name is a button that sorts by that model's score."""
    heads = "".join(
        f'<button type="button" data-model="{place}" title="Sort by the score of this model">'
        f'<b>{escape(model.name)}</b><span class="mean"></span></button>'
        for place, model in enumerate(comparison.models)
    )
    return f'<div class="heads">{heads}</div>'


def _render_row(comparison: Comparison, gallery: Gallery, decimals: Mapping[str, int], row: int) -> str:
    number = row % len(comparison.prompts)
    seed = comparison.seeds[row]
    category = comparison.categories[number]
    facts = [f"seed {seed}" if seed is not None else "seed not known"]
    if category is not None:
        facts.insert(0, category)
    places = range(len(comparison.models))
    cells = "".join(_render_cell(comparison, gallery, decimals, row, place) for place in places)
    return (
        f'<li data-row="{row}"><p class="prompt">{escape(comparison.prompts[number])} '
        f'<span>{escape(", ".join(facts))}</span></p><div class="cells">{cells}</div></li>'
    )


def _render_cell(
    comparison: Comparison, gallery: Gallery, decimals: Mapping[str, int], row: int, place: int
) -> str:
    """Show one image with its scores; the best of the row is in bold."""
    model = comparison.models[place]
    scores = reasons = ""
    for name, facts in comparison.scores.items():
        if model.reason(name, row):
            reasons += f'<p class="reason">{escape(model.reason(name, row))}</p>'
        values = [comparison.value(other, name, row) for other in comparison.models]
        value = values[place]
        if value is not None:
            known = {one for one in values if one is not None}
            is_best = len(known) > 1 and value == max(known)
            number = f"{value:.{decimals[name]}f}"
            shown = f"<b>{number}</b>" if is_best else number
            scores += f"<div><dt>{escape(facts['title'])}</dt><dd>{shown}</dd></div>"
    picture = _render_picture(gallery.pictures[place][row], model.name, row, place)
    return (
        f'<figure>{picture}<figcaption><span class="model">{escape(model.name)}</span>'
        f"<dl>{scores}</dl>{reasons}</figcaption></figure>"
    )


def _render_picture(picture: Picture | None, model: str, row: int, place: int) -> str:
    if picture is None or picture.small is None:
        return '<div class="absent">no image</div>'
    kind = ' class="pixelated"' if picture.is_whole else ""
    image = (
        f'<img{kind} src="{picture.small}" alt="" width="{picture.width}" height="{picture.height}" '
        'loading="lazy" decoding="async">'
    )
    label = escape(f"Open the image of {model}, row {row + 1}")
    return (
        f'<button type="button" class="open" data-cell="{row},{place}" aria-label="{label}">{image}</button>'
    )


def decimals_of_score(comparison: Comparison, name: str) -> int:
    """Return the decimals with which the values of a score are shown, the same for all images."""
    known = [score["values"] for model in comparison.models if (score := model.score(name)) is not None]
    largest = max(abs(value) for values in known for value in values)
    return max(0, DIGITS - 1 - math.floor(math.log10(largest))) if largest else 0


def _render_data(comparison: Comparison, gallery: Gallery, decimals: Mapping[str, int]) -> str:
    """Write the values that the script sorts by, as JSON that no text can end early."""
    count = len(comparison.prompts)
    rows = range(len(comparison.seeds))
    content: dict[str, Any] = {
        "models": [model.name for model in comparison.models],
        "scores": {name: facts["title"] for name, facts in comparison.scores.items()},
        "prompts": comparison.prompts,
        "categories": comparison.categories,
        "values": {
            name: [[comparison.value(model, name, row) for model in comparison.models] for row in rows]
            for name in comparison.scores
        },
        "decimals": decimals,
        "numbers": [row % count for row in rows],
        "seeds": comparison.seeds,
        "large": [[_large(column[row]) for column in gallery.pictures] for row in rows],
    }
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" class="data">{text}</script>'


def _large(picture: Picture | None) -> str | None:
    return None if picture is None else picture.large
