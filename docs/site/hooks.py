"""Hooks of mkdocs: pages that are written for GitHub become pages of the site.

- `README.md` is the first page.
- Formulas become MathML, which browsers draw without a script.
- Headings have the names that GitHub gives them, to which links lead.
- Pictures outside `docs/` are copied; other links out of `docs/` become plain text.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
START = "index.md"
PICTURES = "pictures"
"""The site's folder of the pictures that stand outside `docs/`."""
FENCE = re.compile(r"^```.*?^```[ ]*$", re.MULTILINE | re.DOTALL)
FORMULA_BLOCK = re.compile(r"^```math\n(.*?)^```[ ]*$", re.MULTILINE | re.DOTALL)
CODE_OR_FORMULA = re.compile(r"(`+)[^`].*?\1|\$([^$\n]+?)\$")
HEADING = re.compile(r"^(#+ +)(.*?) *$", re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the first page, and pictures that pages show from other folders."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, START, content=text))
    for page in [*Path(config.docs_dir).glob("*.md"), ROOT / "README.md"]:
        for mark, _, target in LINK.findall(page.read_text(encoding="utf-8")):
            picture = Path(os.path.normpath(page.parent / target))
            if mark and not picture.is_relative_to(config.docs_dir):
                name = f"{PICTURES}/{picture.name}"
                if files.get_file_from_path(name) is None:
                    files.append(File.generated(config, name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the formulas and links of a page, and leave its code as it is."""
    markdown = FORMULA_BLOCK.sub(lambda found: f"\n{_mathml(found[1], 'block')}\n", markdown)
    place = page.file.src_uri
    names: Counter[str] = Counter()
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [_rewrite(markdown[end : fence.start()], place, names), fence[0]]
        end = fence.end()
    return "".join([*parts, _rewrite(markdown[end:], place, names)])


def _rewrite(text: str, place: str, names: Counter[str]) -> str:
    """Rewrite text without blocks of code; `names` counts the headings of the page so far."""

    def named(heading: re.Match[str]) -> str:
        name = re.sub(r"[^\w\- ]", "", heading[2].lower()).replace(" ", "-")
        names[name] += 1
        number = f"-{names[name] - 1}" if names[name] > 1 else ""
        return f"{heading[0]} {{ #{name}{number} }}"

    if not place.startswith("api/"):
        text = HEADING.sub(named, text)
    text = CODE_OR_FORMULA.sub(lambda found: _mathml(found[2], "inline") if found[2] else found[0], text)
    return LINK.sub(lambda found: _link(found, place), text)


def _mathml(formula: str, display: str) -> str:
    """Write a formula as MathML on one line, without signs that Markdown reads."""
    text = convert(" ".join(formula.split()), display=display).replace("\\_", "_")
    text = re.sub(r"(<mi>(?:log|min|max|exp)</mi>)", r'\1<mspace width="0.17em"/>', text)
    for sign in "|*_`":
        text = re.sub(rf"(?<=>)([^<]*){re.escape(sign)}", rf"\1&#{ord(sign)};", text)
    return text if display == "block" else f"<span>{text}</span>"


def _link(found: re.Match[str], place: str) -> str:
    """Keep links within the site; copy pictures; write links to other files as text."""
    mark, label, target = found.groups()
    path = target.partition("#")[0]
    if not path or re.match(r"[a-z]+:", target):
        return found[0]
    folder = ROOT if place == START else ROOT / "docs" / Path(place).parent
    if place == START and (ROOT / "docs" / path).exists():
        return found[0]
    file = Path(os.path.normpath(folder / path))
    if file == ROOT / "README.md":
        return f"[{label}]({START}{target[len(path) :]})"
    if file.is_relative_to(ROOT / "docs"):
        return found[0]
    if mark:
        return f"![{label}]({PICTURES}/{file.name})"
    return label if label.startswith("`") else f"{label} (`{file.relative_to(ROOT)}`)"
