"""Files of scored results with images of plain colours, as `python -m eval preference` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from distill.data.images import to_pil
from distill.eval.preference.kept import images_sha256, pixels_sha256
from distill.eval.preference.result_types import FORMAT
from distill.eval.preference.results import measure
from distill.eval.prompt_sets import PromptSet
from distill.eval.prompt_sets.formats import Prompt

PROMPTS = PromptSet.whole(
    "mine",
    "mine.txt",
    [Prompt("a zebra", "animals"), Prompt("a cat", "animals"), Prompt("a house", "places")],
)
TITLES = {"pickscore": "PickScore", "hpsv2.1": "HPS v2.1"}


def write_scored(
    folder: Path,
    name: str,
    values: Mapping[str, Sequence[float]],
    prompts: PromptSet = PROMPTS,
    size: tuple[int, int] = (8, 8),
    **changes: object,
) -> Path:
    """Write `<name>.json` and its images, (height, width) in `size`; `changes` replace parts of the results.

    The image of row i has the colour (40 i, a number of the name, 90).
    """
    store = folder / f"store-{name}"
    store.mkdir(parents=True)
    rows = len(next(iter(values.values())))
    files = []
    hashes = []
    for row in range(rows):
        colour = torch.tensor([40 * row % 256, sum(name.encode()) % 256, 90], dtype=torch.uint8)
        pixels = colour[:, None, None].expand(3, *size).contiguous()
        files.append(f"{row}.png")
        hashes.append(pixels_sha256(pixels))
        to_pil(pixels).save(store / files[-1])
    path = folder / f"{name}.json"
    subject = {"of": name, "folder": str(store), "files": files, "paired_by": "seed", "lossy": {}}
    results = {
        "format": FORMAT,
        "prompts": {
            **prompts.describe(),
            "texts": prompts.texts,
            "categories": [prompt.category for prompt in prompts.prompts],
        },
        "per_prompt": rows // len(prompts),
        "independent": len(prompts),
        "seeds": list(range(rows)),
        "subject": {**subject, "images_sha256": images_sha256(hashes)},
        "scores": {score: score_of(score, values[score], prompts) for score in values},
        "notes": [],
        "commit": None,
        "machine": "any",
        **changes,
    }
    path.write_text(json.dumps(results))
    return path


def score_of(name: str, values: Sequence[float], prompts: PromptSet) -> dict[str, Any]:
    return {
        "title": TITLES.get(name, name),
        "also": {},
        "convention": "",
        "files": {},
        "score": name,
        "weights_sha256": f"weights of {name}",
        "settings": {},
        "reads": {},
        **measure([list(values)], prompts),
    }
