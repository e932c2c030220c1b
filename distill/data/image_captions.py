"""Read the captions of image files from `metadata.jsonl`, `metadata.csv` or a text file beside each image."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from distill.config.errors import UserError, did_you_mean
from distill.config.text_files import csv_lines, is_text, json_lines
from distill.data.archives import NamedFiles, plain_name
from distill.data.class_folders import shared_folder

METADATA = "metadata.jsonl"
METADATA_CSV = "metadata.csv"
"""Files in which captioned folders of the `datasets` library list their images."""


def read_image_captions(files: NamedFiles, names: list[str], key: str | None = None) -> list[tuple[str, ...]]:
    """Read one or more captions of each image; an image without a caption is refused.

    With `key` they are under that key of the JSON file beside each image. Otherwise a list of all images, in
    any folder that holds them all, takes precedence over text files.
    """
    if key is not None:
        return [_read_json(files, name, key) for name in names]
    shared = shared_folder(names)
    for metadata in (METADATA, METADATA_CSV):
        folder = files.find_above(shared, metadata)
        if folder is not None:
            return _read_listed(files, names, folder, metadata)
    return [(_read_beside(files, name),) for name in names]


def _read_listed(files: NamedFiles, names: list[str], folder: str, metadata: str) -> list[tuple[str, ...]]:
    captions = _read_metadata(files, folder, metadata)
    for name in names:
        if name not in captions:
            place = files.path / folder / metadata
            raise UserError(f"{place}: has no caption of {name}; expected one for every image")
    return [tuple(captions[name]) for name in names]


def _read_metadata(files: NamedFiles, folder: str, metadata: str) -> dict[str, list[str]]:
    """Return the captions by the names of the images; an image may be listed more than once."""
    place = f"{files.path / folder / metadata}"
    text = files.read_text(f"{folder}{metadata}")
    kind, read = ("row", csv_lines) if metadata == METADATA_CSV else ("JSON object", json_lines)
    expected = f"expected a {kind} with 'file_name' and 'text'"
    captions: dict[str, list[str]] = {}
    for line, entry in read(text, place, expected):
        if not isinstance(entry.get("file_name"), str) or "text" not in entry:
            raise UserError(f"{line}: {expected}")
        name = f"{folder}{plain_name(entry['file_name'])}"
        if name not in files:
            raise UserError(f"{line}: {files.path / name} is not there")
        captions.setdefault(name, []).extend(captions_of(entry["text"], f"{line}: 'text'"))
    return captions


def _read_beside(files: NamedFiles, name: str) -> str:
    """Read the caption in the text file beside an image."""
    path = PurePosixPath(name)
    beside = [str(path.with_suffix(ending)) for ending in (".txt", ".TXT")]
    found = [file for file in beside if file in files]
    if not found:
        expected = f"{path.stem}.txt beside it, or {METADATA} or {METADATA_CSV} in {files.path}"
        raise UserError(f"{files.path / name}: has no caption; expected {expected}")
    caption = files.read_text(found[0]).strip()
    if not caption:
        raise UserError(f"{files.path / found[0]}: is blank; expected the caption of {Path(name).name}")
    return caption


def _read_json(files: NamedFiles, name: str, key: str) -> tuple[str, ...]:
    """Read the captions in the JSON file beside an image."""
    beside = str(PurePosixPath(name).with_suffix(".json"))
    if beside not in files:
        expected = f"{PurePosixPath(beside).name} beside it"
        raise UserError(f"{files.path / name}: has no caption; expected {expected}")
    place = f"{files.path / beside}"
    try:
        content = json.loads(files.read_text(beside))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: is not JSON ({error})") from error
    if not isinstance(content, dict) or key not in content:
        nearest = did_you_mean(key, content) if isinstance(content, dict) else ""
        raise UserError(f"{place}: expected a JSON object with '{key}'{nearest}")
    return captions_of(content[key], f"{place}: '{key}'")


def captions_of(value: Any, place: str) -> tuple[str, ...]:
    """Return the captions in a text or a list of texts; an error message begins with `place`."""
    captions = value if isinstance(value, (list, tuple)) and value else (value,)
    for caption in captions:
        if not is_text(caption):
            raise UserError(f"{place} is {caption!r}; expected a caption")
    return tuple(captions)
