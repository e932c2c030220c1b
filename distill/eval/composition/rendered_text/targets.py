"""The texts that prompts ask for: those of LongText-Bench's file, or those that prompts quote."""

from __future__ import annotations

import re
from collections.abc import Sequence

from distill.config.errors import UserError
from distill.config.text_files import is_text
from distill.eval.prompt_sets import PromptSet, read_contents, read_prompt_set
from distill.eval.prompt_sets.contents import Table

SINGLE_QUOTES = re.compile(r"'(.*?)'")
"""Quotes of CVTG-2K, as its script reads them."""
PAIRS = (
    ('"', '"'),
    ("\u201c", "\u201d"),
    ("\u2018", "\u2019"),
    ("\u00ab", "\u00bb"),
    ("\u300c", "\u300d"),
)
"""Opening and closing quotes of other lists: straight, curly, single curly, French and Chinese ones."""
QUOTES = re.compile(
    "|".join([*(f"{start}([^{end}]+){end}" for start, end in PAIRS), r"(?<!\w)'([^']+)'(?!\w)"])
)
"""Quotes of other lists. A single straight quote within a word is an apostrophe."""


def read_targets(source: str, format: str | None) -> tuple[PromptSet, list[list[str]]]:
    """Read prompts, and the texts that each prompt of the list asks for."""
    prompts = read_prompt_set(source, format)
    if prompts.are_labels:
        raise UserError(f"--prompts {source}: are labels; expected prompts that quote text")
    if prompts.name == "longtext":
        return prompts, _of_longtext(source)
    quotes = SINGLE_QUOTES if prompts.name == "cvtg" else QUOTES
    targets = [quoted(prompt.text, quotes) for prompt in prompts.listed]
    for prompt, texts in zip(prompts.listed, targets, strict=True):
        if not texts:
            raise UserError(
                f"--prompts {prompts.origin}: '{prompt.text}' quotes no text; "
                'expected prompts such as a sign that says "open"'
            )
    return prompts, targets


def quoted(prompt: str, quotes: re.Pattern[str] = QUOTES) -> list[str]:
    """Return the texts that a prompt quotes."""
    found = []
    for match in quotes.finditer(prompt):
        text = next(group for group in match.groups() if group is not None).strip()
        if text:
            found.append(text)
    return found


def _of_longtext(source: str) -> list[list[str]]:
    (path, content), *_ = read_contents(source)
    assert isinstance(content, Table)
    columns = {name.lower(): values for name, values in content.columns.items()}
    targets = []
    for row, given in enumerate(columns["text"], start=1):
        texts = [given] if isinstance(given, str) else given
        if not _are_texts(texts):
            raise UserError(f"--prompts {path}: row {row} has {given!r} for text; expected a list of texts")
        targets.append(list(texts))
    return targets


def _are_texts(texts: object) -> bool:
    """Tell a list of at least one text, of which none is blank: each is text that the image must show."""
    return isinstance(texts, Sequence) and len(texts) > 0 and all(is_text(text) for text in texts)
