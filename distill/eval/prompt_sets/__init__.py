"""Lists of prompts to compare models on: our own, `distill-80.tsv`, and those of benchmarks.

The lists of benchmarks come from the user's files or from the Hugging Face hub.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from distill.config.errors import UserError, first_line
from distill.data.natural_order import natural_key
from distill.eval.prompt_sets.contents import Content, Table, read_content
from distill.eval.prompt_sets.formats import FORMATS, Prompt, Source

OWN = Path(__file__).with_name("distill-80.tsv")
"""Our own list: ten prompts in each of eight categories, in turn.

The file never changes, because numbers were published with it.
"""
ENDINGS = (".tsv", ".csv", ".json", ".jsonl", ".parquet", ".txt")
STYLES = ("anime.json", "concept-art.json", "paintings.json", "photo.json")
"""Files of HPSv2's benchmark. In a folder that holds all of them, only they are read."""


class _PromptSetFacts(TypedDict):
    set: str
    of: str
    count: int
    sha256: str
    departures: list[str]


class PromptSetFacts(_PromptSetFacts, total=False):
    """Facts about the prompts of a result. `sha256` is the hash of their texts and categories, in order."""

    rule: str


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """A list of prompts, and which of them are measured."""

    name: str
    origin: str
    """The file, folder or dataset that the list was read from."""
    listed: tuple[Prompt, ...]
    """All prompts of the list."""
    numbers: Sequence[int]
    """Positions in the list of the prompts that are measured, ascending."""
    departures: tuple[str, ...] = ()
    """Ways in which the measured prompts are not the list that `name` says."""
    rule: str | None = None
    """The way in which prompts were chosen from the file, for formats that leave a choice."""

    @classmethod
    def whole(
        cls,
        name: str,
        origin: str,
        prompts: Sequence[Prompt],
        departures: tuple[str, ...] = (),
        rule: str | None = None,
    ) -> PromptSet:
        """Build a set that measures all prompts of a list."""
        return cls(name, origin, tuple(prompts), range(len(prompts)), departures, rule)

    def __len__(self) -> int:
        return len(self.numbers)

    @functools.cached_property
    def prompts(self) -> list[Prompt]:
        """The prompts that are measured."""
        return [self.listed[number] for number in self.numbers]

    @property
    def texts(self) -> list[str]:
        return [prompt.text for prompt in self.prompts]

    @property
    def are_labels(self) -> bool:
        return self.prompts[0].label is not None

    @property
    def categories(self) -> dict[str, list[int]]:
        """Positions among the measured prompts by category, in the order in which categories first appear.

        Empty if the prompts have no categories.
        """
        found: dict[str, list[int]] = {}
        for number, prompt in enumerate(self.prompts):
            if prompt.category is not None:
                found.setdefault(prompt.category, []).append(number)
        return found

    @property
    def repeated(self) -> int:
        """Number of prompts that appear earlier in the set already."""
        return sum(count - 1 for count in collections.Counter(self.texts).values())

    def describe(self) -> PromptSetFacts:
        """Return what a result records of its prompts."""
        facts: PromptSetFacts = {
            "set": self.name,
            "of": self.origin,
            "count": len(self),
            "sha256": hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest(),
            "departures": list(self.departures),
        }
        if self.rule:
            facts["rule"] = self.rule
        return facts

    def first(self, count: int, seed: int | None) -> PromptSet:
        """Return the first `count` prompts, or with a seed `count` random ones, in the order of the list."""
        if count > len(self):
            raise UserError(f"--n {count}: {self.origin} holds {len(self)} prompts; expected at most as many")
        if count == len(self):
            return self
        numbers: Sequence[int]
        if seed is None:
            numbers, how = range(count), "the first"
        else:
            numbers = sorted(random.Random(seed).sample(range(len(self)), count))
            how = f"drawn with seed {seed}"
        departure = f"{count} of its {len(self)} prompts, {how}"
        return dataclasses.replace(self, numbers=numbers, departures=(*self.departures, departure))


def read_prompt_set(source: str | None, format: str | None = None, all_captions: bool = False) -> PromptSet:
    """Read prompts from a file, a folder or a dataset of the hub (`OWNER/NAME`, `OWNER/NAME:FILE`).

    None gives our own list, `labels:N` gives N labels. Without `format`, the content of the files decides the
    format.
    """
    if source is None:
        return PromptSet.whole(OWN.stem, "distill", _read(OWN, "table", False)[1])
    if re.fullmatch(r"labels:[1-9]\d*", source):
        if format is not None or all_captions:
            raise UserError(
                "--format and --captions: go with a file of prompts; leave them out with labels:N"
            )
        return _labels(source)
    if not source.strip() or (re.fullmatch(r"\w+:\S*", source) and not Path(source).exists()):
        raise UserError(
            f"--prompts '{source}': expected a file, a folder, a dataset of the hub, "
            "or labels:N of N labels, such as labels:10"
        )
    files = _files(_locate(source), source)
    read = [_read(path, format, all_captions) for path in files]
    formats = sorted({name for name, _ in read})
    if len(formats) > 1 or (
        len(files) > 1 and formats[0] in ("coco", "mjhq", "geneval", "dpg", "longtext", "cvtg", "text")
    ):
        raise UserError(
            f"--prompts {source}: holds {', '.join(path.name for path in files[:3])}; "
            "expected one file of prompts: name it"
        )
    found = formats[0]
    prompts = [prompt for _, part in read for prompt in part]
    if not prompts:
        raise UserError(f"--prompts {source}: holds no prompt")
    if all_captions and found != "coco":
        raise UserError(
            f"--captions all: goes with COCO's captions; expected one for the {found} of {source}"
        )
    name = files[0].stem if found in ("table", "text") else found
    return PromptSet.whole(
        name, source, prompts, _departures(found, len(prompts)), _rule(found, all_captions)
    )


def read_contents(source: str) -> list[tuple[Path, Content]]:
    """Read the content of the files that `read_prompt_set` reads, for benchmarks of more than prompts."""
    return [(path, read_content(path)) for path in _files(_locate(source), source)]


def _labels(source: str) -> PromptSet:
    """Build the set for `labels:N`, whose prompts are the labels 0..N-1."""
    count = int(source.partition(":")[2])
    prompts = [Prompt(f"label {label}", f"label {label}", label) for label in range(count)]
    return PromptSet.whole("labels", source, prompts)


def _departures(format: str, count: int) -> tuple[str, ...]:
    """Say so if a list has another number of prompts than the published benchmark."""
    published = FORMATS[format].published
    return () if published in (None, count) else (f"{count} prompts, not {published}",)


def _rule(format: str, all_captions: bool) -> str | None:
    if format != "coco":
        return None
    if all_captions:
        return "every caption, by image and id"
    return "one caption an image, that of the lowest id, by image"


def _read(path: Path, format: str | None, all_captions: bool) -> tuple[str, list[Prompt]]:
    """Return the format of a file and its prompts."""
    content = read_content(path, as_text=format == "text")
    name = format or _recognise(content, path)
    if not FORMATS[name].fits(content):
        raise UserError(f"--prompts {path}: is not of the format '{name}'; expected {FORMATS[name].expected}")
    return name, FORMATS[name].read(Source(content, str(path), path.stem, all_captions))


def _recognise(content: Content, path: Path) -> str:
    """Return the name of the first format that the content fits."""
    for name, known in FORMATS.items():
        if known.fits(content):
            return name
    if isinstance(content, Table):
        raise UserError(
            f"--prompts {path}: has no column of prompts among {', '.join(content.columns)}; "
            f"expected {FORMATS['table'].expected}"
        )
    raise UserError(
        f"--prompts {path}: is JSON of no known kind; expected what one of {', '.join(FORMATS)} is"
    )


def _locate(source: str) -> Path:
    """Return the path of the file or folder; download it if it is the name of a dataset on the hub."""
    path = Path(source)
    if path.exists():
        return path
    name, _, inside = source.partition(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or (not inside and path.suffix in ENDINGS):
        raise UserError(f"--prompts {source}: no such file or folder")
    from huggingface_hub import snapshot_download

    wanted = [inside, f"{inside.rstrip('/')}/*"] if inside else [f"*{ending}" for ending in ENDINGS]
    try:
        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--prompts {source}: is no file, and cannot be downloaded from the hub ({first_line(error)})"
        ) from error
    if not (folder / inside).exists():
        raise UserError(f"--prompts {source}: the dataset {name} holds no {inside}")
    return folder / inside


def _files(path: Path, source: str) -> list[Path]:
    """Return the file itself, or the files of prompts in a folder.

    They are in the order of the numbers in their names, because prompts are paired with images by their
    order.
    """
    if not path.is_dir():
        return [path]
    found = [file for file in path.rglob("*") if file.suffix in ENDINGS and file.is_file()]
    if not found:
        raise UserError(
            f"--prompts {source}: holds no file of prompts; expected one ending in {', '.join(ENDINGS)}"
        )
    files = sorted(found, key=lambda file: natural_key(file.relative_to(path).as_posix()))
    styles = [file for file in files if file.name in STYLES]
    return styles if len(styles) == len(STYLES) else files
