"""The images that are judged, as files: made once and kept under the hash of what they depend on, or the user's own."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm import tqdm

from distill.errors import UserError
from distill.files import new_file, read_json, write_json
from distill.image_files import INDEX, ImageFiles
from distill.images import to_pil
from distill.types import Condition, Text
from eval.preference.asked import Asked
from eval.preference.subjects import Subject
from eval.processes import Processes
from eval.prompt_sets import PromptSet
from eval.prompt_sets.formats import Prompt


class PromptedImages:
    """Image files, row i for prompt i % len(prompts) and of seed `seeds[i]` where it is known. Scores of them are kept in `folder`.

    `identity` says what all images depend on. Raises UserError where a name is of no file.
    """

    def __init__(
        self, files: ImageFiles, names: Sequence[str], prompts: PromptSet, seeds: Sequence[int | None], origin: str, identity: Any, folder: Path
    ) -> None:
        self.files, self.prompts, self.seeds, self.origin, self.identity, self.folder = files, prompts, list(seeds), origin, identity, folder
        places = {name: place for place, name in enumerate(files.names)}
        self.places = [places[name] for name in names]

    def __len__(self) -> int:
        return len(self.places)

    def prompt(self, row: int) -> str:
        return prompt_of(self.prompts, row)

    def condition(self, rows: Sequence[int], filled: int) -> Condition:
        """The prompts of these rows, and the labels if they are labels; empty ones, or label 0, up to `filled` rows."""
        chosen = [self.prompts.prompts[row % len(self.prompts)] for row in rows] + [Prompt("", label=0)] * (filled - len(rows))
        text = Text({"tokens": torch.zeros(filled, 0, 0)}, {}, tuple(prompt.text for prompt in chosen))
        return Condition(torch.tensor([prompt.label for prompt in chosen]) if self.prompts.are_labels else None, text)

    def name(self, row: int) -> str:
        return self.files.names[self.places[row]]

    def stamp(self, row: int) -> str:
        """What changes when an image's file or its prompt does."""
        return hashlib.sha256(f"{self.files.stamp(self.places[row])}\n{self.prompt(row)}".encode()).hexdigest()[:32]

    def pixels(self, row: int) -> UInt8[Tensor, "c h w"]:
        """An image, in colour if it is of a prompt. Raises UserError where it cannot be read."""
        return self.files.pixels(self.places[row], None if self.prompts.are_labels else "RGB")


def make_images(subject: Subject, prompts: PromptSet, seeds: range, root: Path, processes: Processes, progress: bool) -> PromptedImages:
    """The images of a subject, those that are not there yet made now, by all processes together.

    Raises UserError, naming the first, where images are not finite; the others are kept.
    """
    folder = folder_of(root, subject.identity)
    names = [image_name(prompt_of(prompts, row), seed) for row, seed in enumerate(seeds)]
    images = folder / "images"
    absent = [row for row, name in enumerate(names) if not (images / name).is_file()]
    blocks = [absent[start : start + subject.batch_size] for start in range(0, len(absent), subject.batch_size)]
    processes.wait()  # all have looked before any writes
    failures: list[str] = []
    try:
        with tqdm(total=len(absent), desc=f"images of {subject.origin}", unit="image", disable=not progress or not processes.is_main) as bar:
            for block in processes.share(blocks):
                for row, image in zip(block, subject.read(block), strict=True):
                    if isinstance(image, UserError):
                        failures.append(str(image))
                    else:
                        _save(image, images / names[row], subject.origin, prompt_of(prompts, row), seeds[row])
                    bar.update(processes.count)
        failures = processes.gather(failures)
        if processes.is_main:
            _write_index(images, subject, [(name, seeds[row], prompt_of(prompts, row)) for row, name in enumerate(names)])
        processes.wait()
    except OSError as error:
        raise UserError(f"--store {root}: cannot be written ({error.strerror})") from error
    if failures:
        raise UserError(f"{len(failures)} of {len(names)} images cannot be used: {failures[0]}; the others are kept")
    return PromptedImages(ImageFiles(images), names, prompts, seeds, subject.origin, subject.identity, folder)


def find_images(asked: Asked, prompts: PromptSet, per_prompt: int, root: Path) -> PromptedImages:
    """Images that are there already: by the prompts that their index names, else in the order of the prompts, in turn.

    Raises UserError where they are not as many as the prompts want.
    """
    files = ImageFiles(Path(asked.path))
    recorded = recorded_prompts(files, prompts.are_labels)
    places = _by_index(files, recorded, prompts, per_prompt) if recorded else _in_order(files, prompts, per_prompt)
    seeds = [files.records[place].get("seed") if files.records else None for place in places]
    identity = {"kind": "images", "path": str(files.path.resolve())}
    names = [files.names[place] for place in places]
    return PromptedImages(files, names, prompts, seeds, asked.path, identity, folder_of(root, identity))


def recorded_prompts(files: ImageFiles, labels: bool = False) -> list[str]:
    """The prompt, or the label, of every image, as `sample.py` noted them; empty where it did not."""
    if labels:
        return [f"label {label}" for label in files.labels]
    prompts = [record.get("prompt") for record in files.records]
    return [str(prompt) for prompt in prompts] if all(prompts) else []


def prompt_of(prompts: PromptSet, row: int) -> str:
    """The prompt of an image: they come in turn."""
    return prompts.prompts[row % len(prompts)].text


def image_name(prompt: str, seed: int) -> str:
    """The file of a prompt's image of this seed: the same in every list that the prompt is in."""
    return f"{seed:08d}-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}.png"


def folder_of(root: Path, identity: Any) -> Path:
    return root / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _by_index(files: ImageFiles, recorded: list[str], prompts: PromptSet, per_prompt: int) -> list[int]:
    """The images of each prompt by turns, in the order of the index."""
    waiting: dict[str, deque[int]] = defaultdict(deque)
    for place, prompt in enumerate(recorded):
        waiting[prompt].append(place)
    wanted = prompts.texts * per_prompt
    for prompt, count in Counter(wanted).items():
        if len(waiting[prompt]) < count:
            raise UserError(f"{files.path}: holds {len(waiting[prompt])} images of the prompt '{prompt}'; expected {count}")
    return [waiting[prompt].popleft() for prompt in wanted]


def _in_order(files: ImageFiles, prompts: PromptSet, per_prompt: int) -> list[int]:
    """Image i for prompt i % count: of the prompts that are measured, or of all of their list."""
    if len(files) == len(prompts) * per_prompt:
        return list(range(len(files)))
    if len(files) == len(prompts.listed) * per_prompt:
        return [turn * len(prompts.listed) + number for turn in range(per_prompt) for number in prompts.numbers]
    many = f"{per_prompt} images each" if per_prompt > 1 else "an image each"
    raise UserError(
        f"{files.path}: holds {len(files)} images; expected {len(prompts) * per_prompt}, for {len(prompts)} prompts of {prompts.origin} {many}"
    )


def _save(image: UInt8[Tensor, "c h w"], path: Path, origin: str, prompt: str, seed: int) -> None:
    note = PngInfo()
    note.add_text("Comment", json.dumps({"of": origin, "seed": seed, "prompt": prompt}))
    with new_file(path) as partial:
        to_pil(image).save(partial, "png", pnginfo=note)


def _write_index(folder: Path, subject: Subject, made: Iterable[tuple[str, int, str]]) -> None:
    """List the images that are there as `sample.py` does, with those of earlier lists of prompts."""
    index = folder / INDEX
    known = {record["file"]: record for record in read_json(index)["images"]} if index.is_file() else {}
    known |= {name: {"file": name, "seed": seed, "label": None, "prompt": prompt} for name, seed, prompt in made}
    there = [known[name] for name in sorted(known) if (folder / name).is_file()]
    if there:
        write_json(index, {"of": subject.origin, **subject.identity, "images": there})
