"""Image files that are scored: a generator's are made once and kept under a hash of their origin."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from distill.config.errors import UserError, reading, writing_to
from distill.config.progress import ProgressBar
from distill.data.image_files import ImageFiles
from distill.data.image_labels import INDEX
from distill.data.images import lossy_format, to_pil
from distill.eval.images.processes import Processes
from distill.eval.preference.subjects import ImageSource
from distill.eval.prompt_sets import PromptSet
from distill.eval.prompt_sets.formats import Prompt
from distill.storage.files import new_file, read_mapping, write_json
from distill.types import Condition, Text

PairedBy = Literal["seed", "index", "order"]
"""The way in which an image got its prompt.

`seed`: it was made for it; `index`: an index names it; `order`: prompt and image have the same place in their
lists.
"""


class FileFacts(NamedTuple):
    """The hash of an image's file, and its compression if that changed the pixels.

    The hash is None if the file cannot be read.
    """

    sha256: str | None
    lossy: str | None


@runtime_checkable
class ImageTotals(Protocol):
    """What was read of all images: the hash of their pixels, and how many have each lossy compression."""

    @property
    def images_sha256(self) -> str: ...

    @property
    def lossy(self) -> dict[str, int]: ...


class PromptedImages:
    """Image files and their prompts: row i has prompt i % len(prompts) and seed `seeds[i]`.

    A seed is None if it is not known. `names` are the files of the rows, `identity` holds what all images
    depend on, and `folder` keeps their scores.
    """

    def __init__(
        self,
        files: ImageFiles,
        names: Sequence[str],
        prompts: PromptSet,
        seeds: Sequence[int | None],
        origin: str,
        identity: dict[str, Any],
        folder: Path,
        paired_by: PairedBy,
    ) -> None:
        self.files = files
        self.prompts = prompts
        self.seeds = list(seeds)
        self.origin = origin
        self.identity = identity
        self.folder = folder
        self.paired_by = paired_by
        places = {name: place for place, name in enumerate(files.names)}
        self.places = [places[name] for name in names]
        self._facts: list[FileFacts] = []

    def __len__(self) -> int:
        return len(self.places)

    def prompt(self, row: int) -> str:
        return prompt_of(self.prompts, row)

    def condition(self, rows: Sequence[int], filled: int) -> Condition:
        """Return the prompts of these rows, and their labels if the prompts are labels.

        Empty prompts, or label 0, fill the condition up to `filled` rows.
        """
        chosen = [self.prompts.prompts[row % len(self.prompts)] for row in rows]
        chosen += [Prompt("", label=0)] * (filled - len(rows))
        text = Text({"tokens": torch.zeros(filled, 0, 0)}, {}, tuple(prompt.text for prompt in chosen))
        label = torch.tensor([prompt.label for prompt in chosen]) if self.prompts.are_labels else None
        return Condition(label, text)

    def name(self, row: int) -> str:
        return self.files.names[self.places[row]]

    def facts(self, processes: Processes) -> list[FileFacts]:
        """Return the facts of every image's file without decoding it; every process reads its share, once."""
        if not self._facts:
            rows = processes.share(range(len(self)))
            read = processes.gather([(row, self._read_facts(row)) for row in rows])
            self._facts = [facts for _, facts in sorted(read, key=lambda one: one[0])]
        return self._facts

    def _read_facts(self, row: int) -> FileFacts:
        try:
            content = self.files.content(self.places[row])
        except UserError:
            return FileFacts(None, None)  # decoding it raises the error again
        return FileFacts(hashlib.sha256(content).hexdigest(), lossy_format(content))

    def stamps(self, processes: Processes) -> list[str]:
        """Return, for every row, a hash of the content of the image's file and of its prompt."""
        facts = self.facts(processes)
        return [
            hashlib.sha256(f"{facts[row].sha256}\n{self.prompt(row)}".encode()).hexdigest()[:32]
            for row in range(len(self))
        ]

    def repeated(self) -> list[int]:
        """Return the rows that repeat a seed of their prompt: they are not independent draws."""
        seen: set[tuple[str, int]] = set()
        rows = []
        for row, seed in enumerate(self.seeds):
            if seed is None:
                continue
            if (self.prompt(row), seed) in seen:
                rows.append(row)
            seen.add((self.prompt(row), seed))
        return rows

    def pixels(self, row: int) -> UInt8[Tensor, "c h w"]:
        """Read an image; images of prompts are converted to RGB, images of labels keep their channels."""
        return self.files.pixels(self.places[row], None if self.prompts.are_labels else "RGB")


def make_images(
    subject: ImageSource, prompts: PromptSet, seeds: range, root: Path, processes: Processes, progress: bool
) -> PromptedImages:
    """Make the images of a subject that do not exist yet, by all processes together, and return all.

    Raises UserError, naming the first, if images are not finite; the others are kept.
    """
    folder = folder_of(root, subject.identity)
    images = folder / "images"
    texts = [prompt_of(prompts, row) for row in range(len(seeds))]
    names = [image_name(text, seed) for text, seed in zip(texts, seeds, strict=True)]
    absent = [row for row, name in enumerate(names) if not (images / name).is_file()]
    blocks = [
        absent[start : start + subject.batch_size] for start in range(0, len(absent), subject.batch_size)
    ]
    processes.wait()  # no process writes before all have listed what is absent
    failures: list[str] = []
    hidden = not progress or not processes.is_main
    bar = ProgressBar(f"images of {subject.origin}", len(absent), "images", hidden=hidden, leave=True)
    with writing_to(f"--store {root}:"):
        with bar:
            for block in processes.share(blocks):
                for row, image in zip(block, subject.read(block), strict=True):
                    if isinstance(image, UserError):
                        failures.append(str(image))
                    else:
                        _save(image, images / names[row], subject.origin, texts[row], seeds[row])
                    bar.update(processes.count)
        failures = processes.gather(failures)
        if processes.is_main:
            _write_index(images, subject, zip(names, seeds, texts, strict=True))
        processes.wait()
    if failures:
        raise UserError(
            f"{len(failures)} of {len(names)} images cannot be used: {failures[0]}; the others are kept"
        )
    return PromptedImages(
        ImageFiles(images), names, prompts, seeds, subject.origin, subject.identity, folder, "seed"
    )


def prompt_of(prompts: PromptSet, row: int) -> str:
    """Return the prompt of an image: prompts come in turn."""
    return prompts.prompts[row % len(prompts)].text


def image_name(prompt: str, seed: int) -> str:
    """Return the file name for a prompt and a seed, which is the same in every list that has the prompt."""
    return f"{seed:08d}-{hashlib.sha256(prompt.encode()).hexdigest()[:16]}.png"


def folder_of(root: Path, identity: object) -> Path:
    """Return the folder for something that depends on `identity`, plain data."""
    return root / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _save(image: UInt8[Tensor, "c h w"], path: Path, origin: str, prompt: str, seed: int) -> None:
    note = PngInfo()
    note.add_text("Comment", json.dumps({"of": origin, "seed": seed, "prompt": prompt}))
    with new_file(path) as partial:
        to_pil(image).save(partial, "png", pnginfo=note)


def _write_index(folder: Path, subject: ImageSource, made: Iterable[tuple[str, int, str]]) -> None:
    """List the images that exist, as `sample.py` does, with those of earlier lists of prompts."""
    index = folder / INDEX
    known: dict[str, dict[str, Any]] = {}
    if index.is_file():
        with reading(index):
            known = {record["file"]: record for record in read_mapping(index)["images"]}
    for name, seed, prompt in made:
        known[name] = {"file": name, "seed": seed, "label": None, "prompt": prompt}
    existing = [known[name] for name in sorted(known) if (folder / name).is_file()]
    if existing:
        write_json(index, {"of": subject.origin, **subject.identity, "images": existing})
