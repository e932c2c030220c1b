"""The images that are judged, as files: made once and kept under the hash of what they depend on, or the user's own."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import UInt8
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm import tqdm

from distill.config.errors import UserError, reading
from distill.data.image_files import INDEX, ImageFiles
from distill.data.images import lossy_format, to_pil
from distill.data.natural_order import natural_key, parts_of
from distill.storage.files import new_file, read_mapping, write_json
from distill.types import Condition, Text
from eval.images.processes import Processes
from eval.images.sources import NAMED_FOLDERS
from eval.preference.subject_spec import SubjectSpec
from eval.preference.subjects import ImageSource
from eval.prompt_sets import PromptSet
from eval.prompt_sets.formats import Prompt

PairedBy = Literal["seed", "index", "order"]
"""The way in which an image got its prompt: it was made for it, an index names it, or it has the prompt's place in the order of the files."""


class FileFacts(NamedTuple):
    """The hash of an image's file, None of one that cannot be read; and the name of its compression where that changed the pixels."""

    sha256: str | None
    lossy: str | None


class PromptedImages:
    """Image files, row i for prompt i % len(prompts) and of seed `seeds[i]` where it is known. Scores of them are kept in `folder`.

    `identity` says what all images depend on, `paired_by` how images got their prompts. Raises UserError where a name is of no file.
    """

    def __init__(
        self,
        files: ImageFiles,
        names: Sequence[str],
        prompts: PromptSet,
        seeds: Sequence[int | None],
        origin: str,
        identity: Any,
        folder: Path,
        paired_by: PairedBy,
    ) -> None:
        self.files, self.prompts, self.seeds, self.origin, self.identity, self.folder = (
            files,
            prompts,
            list(seeds),
            origin,
            identity,
            folder,
        )
        self.paired_by = paired_by
        self._facts: list[FileFacts] = []
        places = {name: place for place, name in enumerate(files.names)}
        self.places = [places[name] for name in names]

    def __len__(self) -> int:
        return len(self.places)

    def prompt(self, row: int) -> str:
        return prompt_of(self.prompts, row)

    def condition(self, rows: Sequence[int], filled: int) -> Condition:
        """The prompts of these rows, and the labels if they are labels; empty ones, or label 0, up to `filled` rows."""
        chosen = [self.prompts.prompts[row % len(self.prompts)] for row in rows] + [Prompt("", label=0)] * (
            filled - len(rows)
        )
        text = Text({"tokens": torch.zeros(filled, 0, 0)}, {}, tuple(prompt.text for prompt in chosen))
        return Condition(
            torch.tensor([prompt.label for prompt in chosen]) if self.prompts.are_labels else None, text
        )

    def name(self, row: int) -> str:
        return self.files.names[self.places[row]]

    def facts(self, processes: Processes) -> list[FileFacts]:
        """Return what is known of every image's file without decoding it. Every process reads its share, once."""
        if not self._facts:
            rows = processes.share(range(len(self)))
            read = processes.gather([(row, self._look(row)) for row in rows])
            self._facts = [facts for _, facts in sorted(read, key=lambda one: one[0])]
        return self._facts

    def _look(self, row: int) -> FileFacts:
        try:
            content = self.files.content(self.places[row])
        except UserError:
            return FileFacts(None, None)  # whoever decodes it says so
        return FileFacts(hashlib.sha256(content).hexdigest(), lossy_format(content))

    def stamps(self, processes: Processes) -> list[str]:
        """Return, for every row, a hash of the content of the image's file and of its prompt."""
        facts = self.facts(processes)
        return [
            hashlib.sha256(f"{facts[row].sha256}\n{self.prompt(row)}".encode()).hexdigest()[:32]
            for row in range(len(self))
        ]

    def repeated(self) -> list[int]:
        """Return the rows whose seed another image of the same prompt has already: no draws of their own."""
        seen: set[tuple[str, int]] = set()
        rows = []
        for row, seed in enumerate(self.seeds):
            if seed is not None and (self.prompt(row), seed) in seen:
                rows.append(row)
            elif seed is not None:
                seen.add((self.prompt(row), seed))
        return rows

    def pixels(self, row: int) -> UInt8[Tensor, "c h w"]:
        """An image, in colour if it is of a prompt. Raises UserError where it cannot be read."""
        return self.files.pixels(self.places[row], None if self.prompts.are_labels else "RGB")


def make_images(
    subject: ImageSource, prompts: PromptSet, seeds: range, root: Path, processes: Processes, progress: bool
) -> PromptedImages:
    """The images of a subject, those that are not there yet made now, by all processes together.

    Raises UserError, naming the first, where images are not finite; the others are kept.
    """
    folder = folder_of(root, subject.identity)
    names = [image_name(prompt_of(prompts, row), seed) for row, seed in enumerate(seeds)]
    images = folder / "images"
    absent = [row for row, name in enumerate(names) if not (images / name).is_file()]
    blocks = [
        absent[start : start + subject.batch_size] for start in range(0, len(absent), subject.batch_size)
    ]
    processes.wait()  # all have looked before any writes
    failures: list[str] = []
    try:
        with tqdm(
            total=len(absent),
            desc=f"images of {subject.origin}",
            unit="image",
            disable=not progress or not processes.is_main,
        ) as bar:
            for block in processes.share(blocks):
                for row, image in zip(block, subject.read(block), strict=True):
                    if isinstance(image, UserError):
                        failures.append(str(image))
                    else:
                        _save(image, images / names[row], subject.origin, prompt_of(prompts, row), seeds[row])
                    bar.update(processes.count)
        failures = processes.gather(failures)
        if processes.is_main:
            _write_index(
                images,
                subject,
                [(name, seeds[row], prompt_of(prompts, row)) for row, name in enumerate(names)],
            )
        processes.wait()
    except OSError as error:
        raise UserError(f"--store {root}: cannot be written ({error.strerror})") from error
    if failures:
        raise UserError(
            f"{len(failures)} of {len(names)} images cannot be used: {failures[0]}; the others are kept"
        )
    return PromptedImages(
        ImageFiles(images), names, prompts, seeds, subject.origin, subject.identity, folder, "seed"
    )


def find_images(asked: SubjectSpec, prompts: PromptSet, per_prompt: int, root: Path) -> PromptedImages:
    """Images that are there already: by the prompts that their index names, else in the order of the prompts, in turn.

    Files that no index lists come in the order of the numbers in their names. Raises UserError where they are not as many as the prompts want, or
    where their names count the images of one prompt before the next.
    """
    files = ImageFiles(Path(asked.path))
    recorded = recorded_prompts(files, prompts.are_labels)
    places = (
        _by_index(files, recorded, prompts, per_prompt) if recorded else _in_order(files, prompts, per_prompt)
    )
    seeds = [files.records[place].get("seed") if files.records else None for place in places]
    identity = {"kind": "images", "path": str(files.path.resolve())}
    names = [files.names[place] for place in places]
    return PromptedImages(
        files,
        names,
        prompts,
        seeds,
        asked.path,
        identity,
        folder_of(root, identity),
        "index" if recorded else "order",
    )


def recorded_prompts(files: ImageFiles, labels: bool = False) -> list[str]:
    """The prompt, or the label, of every image, as `sample.py` noted them; empty where it did not. Raises UserError where it did of some."""
    if labels:
        if files.classes:
            raise UserError(f"{files.path}: {NAMED_FOLDERS} such as 0 and 1, for --prompts labels:N")
        return [f"label {label}" for label in files.labels]
    prompts = [record.get("prompt") for record in files.records]
    without = next((record["file"] for record in files.records if not record.get("prompt")), None)
    if any(prompts) and without is not None:
        raise UserError(
            f"{files.path / INDEX}: names no prompt of {without}; expected one of each image, or of none"
        )
    return [str(prompt) for prompt in prompts if prompt]


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
            raise UserError(
                f"{files.path}: holds {len(waiting[prompt])} images of the prompt '{prompt}'; expected {count}"
            )
    return [waiting[prompt].popleft() for prompt in wanted]


def _in_order(files: ImageFiles, prompts: PromptSet, per_prompt: int) -> list[int]:
    """Image i for prompt i % count: of the prompts that are measured, or of all of their list. The index decides what image i is, else its name."""
    order = list(range(len(files)))
    if not files.records:
        order.sort(key=lambda place: natural_key(files.names[place]))
    for count, numbers in ((len(prompts), range(len(prompts))), (len(prompts.listed), prompts.numbers)):
        if len(files) == count * per_prompt:
            _refuse_counted_by_prompt(files, count, per_prompt)
            return [order[turn * count + number] for turn in range(per_prompt) for number in numbers]
    many = f"{per_prompt} images each" if per_prompt > 1 else "an image each"
    raise UserError(
        f"{files.path}: holds {len(files)} images; expected {len(prompts) * per_prompt}, for {len(prompts)} prompts of {prompts.origin} {many}"
    )


def _refuse_counted_by_prompt(files: ImageFiles, count: int, per_prompt: int) -> None:
    """Raises UserError where names name prompts and then the images of each, such as 0-0, 0-1, 1-0 or cat-0, cat-1, dog-0: in turn they would be
    mispaired. Of as many prompts as images of each, names such as 0-1 may be either, and are refused too."""
    if files.records or per_prompt == 1 or count == 1:
        return
    names = sorted(files.names, key=natural_key)
    parts = [[part for part in parts_of(name) if part != ""] for name in names]
    first = next(
        (place for place, several in enumerate(zip(*parts, strict=False)) if len(set(several)) > 1), None
    )
    blocks = (
        [len(list(block)) for _, block in itertools.groupby(parts, key=lambda own: own[first])]
        if first is not None
        else []
    )
    if blocks == [per_prompt] * count:
        raise UserError(
            f"{files.path}: names such as {names[1]} count the prompts and then the images of each; expected the images in turn, "
            f"one of every prompt before the second of the first, or a {INDEX} that names their prompts"
        )


def _save(image: UInt8[Tensor, "c h w"], path: Path, origin: str, prompt: str, seed: int) -> None:
    note = PngInfo()
    note.add_text("Comment", json.dumps({"of": origin, "seed": seed, "prompt": prompt}))
    with new_file(path) as partial:
        to_pil(image).save(partial, "png", pnginfo=note)


def _write_index(folder: Path, subject: ImageSource, made: Iterable[tuple[str, int, str]]) -> None:
    """List the images that are there as `sample.py` does, with those of earlier lists of prompts."""
    index = folder / INDEX
    with reading(index):
        known = (
            {record["file"]: record for record in read_mapping(index)["images"]} if index.is_file() else {}
        )
    known |= {
        name: {"file": name, "seed": seed, "label": None, "prompt": prompt} for name, seed, prompt in made
    }
    there = [known[name] for name in sorted(known) if (folder / name).is_file()]
    if there:
        write_json(index, {"of": subject.origin, **subject.identity, "images": there})
