"""Tables of a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape


def render_table(
    corner: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], sub: Sequence[str] = ()
) -> str:
    """Write a table of HTML cells under names of columns, which scrolls by itself on a narrow screen.

    Rows whose names are in `sub` belong to the row above them.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = ""
    for name, cells in rows:
        shown = "".join(f"<td>{text}</td>" for text in cells)
        kind = ' class="sub"' if name in sub else ""
        body += f'<tr{kind}><th scope="row">{escape(name)}</th>{shown}</tr>'
    # The tab stop lets the keyboard scroll a table that is wider than the screen.
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(corner)}"><table><thead><tr>'
        f'<th scope="col">{escape(corner)}</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def bold_best(
    values: Sequence[float | None], texts: Sequence[str], is_lower_better: bool = False
) -> list[str]:
    """Escape texts, and set the best of at least two different values in bold."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    best = None
    if len(set(known)) > 1:
        best = min(known) if is_lower_better else max(known)
    return [
        f"<b>{escape(text)}</b>" if value is not None and value == best else escape(text)
        for value, text in zip(values, texts, strict=True)
    ]
