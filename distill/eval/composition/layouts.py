"""Existing images in the layouts of the published benchmarks, beside those that `preference` reads.

GenEval keeps the images of prompt i in `NNNNN/samples/`, beside `NNNNN/metadata.jsonl` and an overview,
`NNNNN/grid.png`. DPG-Bench keeps those of an item in one file, a grid of two rows and two columns named after
the item.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from jaxtyping import UInt8
from torch import Tensor

from distill.config.errors import UserError
from distill.data.image_files import ImageFiles
from distill.data.natural_order import natural_key
from distill.eval.composition.benchmark import Benchmark
from distill.eval.preference.found_images import find_images
from distill.eval.preference.images import PromptedImages, folder_of
from distill.eval.preference.subject_spec import SubjectSpec
from distill.eval.prompt_sets import PromptSet

NUMBERED = re.compile(r"(\d+)/samples/[^/]+")
OVERVIEW = re.compile(r"\d+/grid\.[^/]+")
"""The overview of a prompt's images that GenEval's script writes beside them."""
METADATA = "metadata.jsonl"
QUARTERS = 4
"""Images in a grid."""
GRIDS = "grids of four"
"""Layout that results name, where each file holds four images."""


class GridImages(PromptedImages):
    """Images that are quarters of files: row i is quarter i // prompts, from left to right and from above."""

    def pixels(self, row: int) -> UInt8[Tensor, "3 h w"]:
        return quarter_of(super().pixels(row), row // len(self.prompts), self.files.path / self.name(row))

    def stamps(self, processes: Any) -> list[str]:
        """Return a hash of the file, the prompt and the quarter of every row."""
        return [f"{stamp}-{row // len(self.prompts)}" for row, stamp in enumerate(super().stamps(processes))]


def quarter_of(grid: UInt8[Tensor, "3 h w"], number: int, path: Path) -> UInt8[Tensor, "3 _ _"]:
    """Cut an image out of a grid of four; `path` is the grid's file."""
    height, width = grid.shape[1:]
    if height % 2 or width % 2:
        raise UserError(
            f"{path}: has {width} x {height} pixels; expected a grid of four images, with even sides"
        )
    below, right = divmod(number, 2)
    top, left = below * height // 2, right * width // 2
    return grid[:, top : top + height // 2, left : left + width // 2]


def find_existing(spec: SubjectSpec, benchmark: Benchmark, per_prompt: int, root: Path) -> PromptedImages:
    """Pair existing images with prompts, in whichever layout they are."""
    prompts = benchmark.prompts
    files = ImageFiles(Path(spec.path))
    samples = [name for name in files.names if not OVERVIEW.fullmatch(name)]
    if samples and all(NUMBERED.fullmatch(name) for name in samples):
        names = _numbered(files, samples, prompts, per_prompt)
        return _paired(PromptedImages, files, names, prompts, spec, root)
    stems = {PurePosixPath(name).stem: name for name in files.names}
    items = benchmark.item_names
    if items is not None and per_prompt == QUARTERS and set(stems) & set(items):
        names = _of_items(stems, [items[number] for number in prompts.numbers], files.path)
        return _paired(GridImages, files, names * QUARTERS, prompts, spec, root)
    return find_images(spec, prompts, per_prompt, root)


def _paired(
    kind: type[PromptedImages],
    files: ImageFiles,
    names: Sequence[str],
    prompts: PromptSet,
    spec: SubjectSpec,
    root: Path,
) -> PromptedImages:
    identity = {"kind": "images", "path": str(files.path.resolve())}
    if kind is GridImages:
        identity["layout"] = GRIDS
    seeds = [None] * len(names)
    return kind(files, names, prompts, seeds, spec.path, identity, folder_of(root, identity), "index")


def _numbered(files: ImageFiles, samples: Sequence[str], prompts: PromptSet, per_prompt: int) -> list[str]:
    """Return the names of the images in numbered folders, prompts in turn."""
    found: dict[int, list[str]] = {}
    for name in sorted(samples, key=natural_key):
        found.setdefault(int(name.partition("/")[0]), []).append(name)
    chosen = []
    for number, text in zip(prompts.numbers, prompts.texts, strict=True):
        names = found.get(number, [])
        if len(names) < per_prompt:
            raise UserError(
                f"{files.path}: holds {len(names)} images in folder {number:05d}; expected {per_prompt}"
            )
        _check_metadata(files.path / PurePosixPath(names[0]).parent.parent / METADATA, text)
        chosen.append(names[:per_prompt])
    return [names[turn] for turn in range(per_prompt) for names in chosen]


def _check_metadata(path: Path, text: str) -> None:
    """Refuse a folder whose own file names another prompt than its number does."""
    if not path.is_file():
        return
    try:
        prompt = json.loads(path.read_text(encoding="utf-8"))["prompt"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read; expected one JSON object with a prompt") from error
    if prompt != text:
        raise UserError(f"{path}: has the prompt '{prompt}'; expected '{text}', as --prompts in this place")


def _of_items(stems: Mapping[str, str], items: Sequence[str], path: Path) -> list[str]:
    """Return the names of the files of these items."""
    for item in items:
        if item not in stems:
            raise UserError(f"{path}: holds no image of item '{item}'; expected a grid of each item")
    return [stems[item] for item in items]
