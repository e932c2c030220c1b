"""Lists of prompts to judge models by: our own, `distill-80.tsv`, and those of benchmarks, from the user's files or from the hub."""

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
from typing import Any

from distill.config.errors import UserError
from distill.data.natural_order import natural_key
from eval.prompt_sets.contents import Table, read_content
from eval.prompt_sets.formats import FORMATS, Prompt, Source

OWN = Path(__file__).with_name("distill-80.tsv")
"""Ten prompts in each of eight categories, by turns. The file never changes once numbers were published with it."""
ENDINGS = (".tsv", ".csv", ".json", ".jsonl", ".parquet", ".txt")
STYLES = ("anime.json", "concept-art.json", "paintings.json", "photo.json")
"""HPSv2's benchmark: what counts of a folder that holds them all."""


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """A list of prompts, its name and where it came from; those of them that are measured; and in which ways it is not what its name says."""

    name: str
    origin: str
    listed: tuple[Prompt, ...]
    numbers: Sequence[int]
    """Which of them are measured, ascending."""
    departures: tuple[str, ...] = ()
    rule: str | None = None
    """How the list was made of the file, where that could be otherwise."""

    @classmethod
    def whole(
        cls,
        name: str,
        origin: str,
        prompts: Sequence[Prompt],
        departures: tuple[str, ...] = (),
        rule: str | None = None,
    ) -> PromptSet:
        """All prompts of a list."""
        return cls(name, origin, tuple(prompts), range(len(prompts)), departures, rule)

    def __len__(self) -> int:
        return len(self.numbers)

    @functools.cached_property
    def prompts(self) -> list[Prompt]:
        return [self.listed[number] for number in self.numbers]

    @property
    def texts(self) -> list[str]:
        return [prompt.text for prompt in self.prompts]

    @property
    def are_labels(self) -> bool:
        return self.prompts[0].label is not None

    @property
    def categories(self) -> dict[str, list[int]]:
        """The prompts' numbers by category, in the order in which they first appear; empty where there are none."""
        found: dict[str, list[int]] = {}
        for number, prompt in enumerate(self.prompts):
            if prompt.category is not None:
                found.setdefault(prompt.category, []).append(number)
        return found

    @property
    def repeated(self) -> int:
        """How many prompts were there before."""
        return sum(count - 1 for count in collections.Counter(self.texts).values())

    def describe(self) -> dict[str, Any]:
        """What a result says of its prompts. The hash is that of their texts and categories, in their order."""
        digest = hashlib.sha256(json.dumps(self.prompts).encode()).hexdigest()
        facts: dict[str, Any] = {
            "set": self.name,
            "of": self.origin,
            "count": len(self),
            "sha256": digest,
            "departures": list(self.departures),
        }
        return facts | ({"rule": self.rule} if self.rule else {})

    def first(self, count: int, seed: int | None) -> PromptSet:
        """The first prompts, or as many drawn with a seed, in their order. Raises UserError where there are fewer."""
        if count > len(self):
            raise UserError(f"--n {count}: {self.origin} holds {len(self)} prompts; expected at most as many")
        if count == len(self):
            return self
        numbers = (
            range(count) if seed is None else sorted(random.Random(seed).sample(range(len(self)), count))
        )
        how = f"{count} of its {len(self)} prompts, " + (
            "the first" if seed is None else f"drawn with seed {seed}"
        )
        return dataclasses.replace(self, numbers=numbers, departures=(*self.departures, how))


def read_prompt_set(source: str | None, format: str | None = None, all_captions: bool = False) -> PromptSet:
    """The prompts of a file or a folder, of a dataset of the hub (`OWNER/NAME`, `OWNER/NAME:FILE`), or, of None, our own; `labels:N` are N labels.

    The format is known by what is there unless it is given. Raises UserError where there are no prompts, or they are of another format.
    """
    if source is None:
        return PromptSet.whole(OWN.stem, "distill", _read(OWN, "table", False)[1])
    if re.fullmatch(r"labels:[1-9]\d*", source):
        if format is not None or all_captions:
            raise UserError(
                "--format and --captions: go with a file of prompts; leave them out with labels:N"
            )
        labels = range(int(source.partition(":")[2]))
        return PromptSet.whole(
            "labels", source, [Prompt(f"label {label}", f"label {label}", label) for label in labels]
        )
    if not source.strip() or (re.fullmatch(r"\w+:\S*", source) and not Path(source).exists()):
        raise UserError(
            f"--prompts '{source}': expected a file, a folder, a dataset of the hub, or labels:N of N labels, such as labels:10"
        )
    files = _files(_locate(source), source)
    read = [_read(path, format, all_captions) for path in files]
    formats = sorted({name for name, _ in read})
    if len(formats) > 1 or (len(files) > 1 and formats[0] in ("coco", "mjhq", "text")):
        raise UserError(
            f"--prompts {source}: holds {', '.join(path.name for path in files[:3])}; expected one file of prompts: name it"
        )
    prompts = [prompt for _, found in read for prompt in found]
    if not prompts:
        raise UserError(f"--prompts {source}: holds no prompt")
    if all_captions and formats[0] != "coco":
        raise UserError(
            f"--captions all: goes with COCO's captions; expected one for the {formats[0]} of {source}"
        )
    kind = FORMATS[formats[0]]
    name = files[0].stem if formats[0] in ("table", "text") else formats[0]
    departures = (
        (f"{len(prompts)} prompts, not {kind.published}",)
        if kind.published not in (None, len(prompts))
        else ()
    )
    return PromptSet.whole(name, source, prompts, departures, _rule(formats[0], all_captions))


def _rule(format: str, all_captions: bool) -> str | None:
    if format != "coco":
        return None
    return (
        "every caption, by image and id"
        if all_captions
        else "one caption an image, that of the lowest id, by image"
    )


def _read(path: Path, format: str | None, all_captions: bool) -> tuple[str, list[Prompt]]:
    """The format of a file, and its prompts."""
    content = read_content(path, as_text=format == "text")
    name = format or next((name for name, known in FORMATS.items() if known.fits(content)), None)
    if name is None:
        if isinstance(content, Table):
            raise UserError(
                f"--prompts {path}: has no column of prompts among {', '.join(content.columns)}; expected {FORMATS['table'].expected}"
            )
        raise UserError(
            f"--prompts {path}: is JSON of no known kind; expected what one of {', '.join(FORMATS)} is"
        )
    if not FORMATS[name].fits(content):
        raise UserError(f"--prompts {path}: is not of the format '{name}'; expected {FORMATS[name].expected}")
    return name, FORMATS[name].read(Source(content, str(path), path.stem, all_captions))


def _locate(source: str) -> Path:
    """The file or folder, downloaded where it is the name of a dataset on the hub."""
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
            f"--prompts {source}: is no file, and cannot be had from the hub ({str(error).splitlines()[0]})"
        ) from error
    if not (folder / inside).exists():
        raise UserError(f"--prompts {source}: the dataset {name} holds no {inside}")
    return folder / inside


def _files(path: Path, source: str) -> list[Path]:
    """The file, or those of a folder."""
    if not path.is_dir():
        return [path]
    found = (file for file in path.rglob("*") if file.suffix in ENDINGS and file.is_file())
    files = sorted(
        found, key=lambda file: natural_key(file.relative_to(path).as_posix())
    )  # prompts are paired with images by their order
    if not files:
        raise UserError(
            f"--prompts {source}: holds no file of prompts; expected one ending in {', '.join(ENDINGS)}"
        )
    styles = [file for file in files if file.name in STYLES]
    return styles if len(styles) == len(STYLES) else files
