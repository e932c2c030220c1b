"""GenEval's published prompts, made again by the rule that made them: random choices of seed 43."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from distill.eval.composition.geneval.requirements import CLASSES, COLORS, POSITIONS

EACH = 100
"""Prompts drawn for each task, before repeated ones are dropped."""
NUMBERS = ("zero", "one", "two", "three", "four")


def published() -> list[dict[str, Any]]:
    """Return the 553 entries of `evaluation_metadata.jsonl`."""
    draw = np.random.default_rng(43)
    entries = []
    for number in draw.choice(80, size=80, replace=False):
        name = CLASSES[number]
        entries.append(entry("single_object", _article(name), {"class": name, "count": 1}))
    for _ in range(EACH):
        first, second = _pair(draw, 80)
        clauses = [{"class": name, "count": 1} for name in (first, second)]
        entries.append(entry("two_object", f"{_article(first)} and {_article(second)}", *clauses))
    for _ in range(EACH):
        name = CLASSES[draw.choice(80)]
        count = int(draw.integers(2, 4, endpoint=True))
        plural = f"{NUMBERS[count]} {name}{'es' if name.endswith('s') else 's'}"
        made = entry("counting", plural, {"class": name, "count": count})
        entries.append({**made, "exclude": [{"class": name, "count": count + 1}]})
    for _ in range(EACH):
        name = CLASSES[(draw.choice(79) + 1) % 80]
        color = COLORS[draw.choice(10)]
        clause = {"class": name, "count": 1, "color": color}
        entries.append(entry("colors", f"{_article(color)} {name}", clause))
    for _ in range(EACH):
        first, second = _pair(draw, 80)
        where = POSITIONS[draw.choice(4)]
        clauses = [{"class": second, "count": 1}, {"class": first, "count": 1, "position": [where, 0]}]
        entries.append(entry("position", f"{_article(first)} {where} {_article(second)}", *clauses))
    for _ in range(EACH):
        names = [CLASSES[(number + 1) % 80] for number in draw.choice(79, size=2, replace=False)]
        colors = [COLORS[number] for number in draw.choice(10, size=2, replace=False)]
        pairs = list(zip(names, colors, strict=True))
        clauses = [{"class": name, "count": 1, "color": color} for name, color in pairs]
        text = " and ".join(f"{_article(color)} {name}" for name, color in pairs)
        entries.append(entry("color_attr", text, *clauses))
    return list({json.dumps(one): one for one in entries}.values())


def entry(tag: str, text: str, *include: dict[str, Any]) -> dict[str, Any]:
    return {"tag": tag, "include": list(include), "prompt": f"a photo of {text}"}


def write(path: Path, entries: list[dict[str, Any]]) -> Path:
    """Write entries as GenEval's JSON lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in entries))
    return path


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _pair(draw: np.random.Generator, count: int) -> tuple[str, str]:
    first, second = draw.choice(count, size=2, replace=False)
    return CLASSES[first], CLASSES[second]
