"""Read labels of images from an index of `sample.py` or EDM, webdataset's `.cls` files, or folders."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from distill.config.errors import UserError
from distill.config.text_files import is_text
from distill.data.archives import NamedFiles, plain_name
from distill.data.class_folders import class_folders, shared_folder

MAX_LABEL = 1_000_000
INDEX = "samples.json"
"""File in which `sample.py` lists its images."""
EDM_INDEX = "dataset.json"
"""File in which EDM's `dataset_tool.py` lists its images."""


@dataclasses.dataclass(frozen=True)
class ImageLabels:
    """Names of images, and the label of each or no labels.

    `classes` are the names of the folders whose positions are the labels, if labels come from such folders.
    `doubt` says why folders that might be classes were not taken for classes. `records` are the entries of
    `sample.py`'s index.
    """

    names: list[str]
    labels: list[int]
    classes: tuple[str, ...] = ()
    doubt: str | None = None
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def read_image_labels(files: NamedFiles, names: list[str]) -> ImageLabels:
    """Read the labels of images from the first of the four places that exists.

    An index may lie in any folder that holds all images. The index of `sample.py` also chooses the images: it
    leaves out the grid.
    """
    shared = shared_folder(names)
    folder = files.find_above(shared, INDEX)
    if folder is not None:
        return _read_sample_index(files, folder)
    folder = files.find_above(shared, EDM_INDEX)
    if folder is not None:
        return ImageLabels(names, _read_edm_index(files, names, folder))
    class_files = {name: str(PurePosixPath(name).with_suffix(".cls")) for name in names}
    if any(file in files for file in class_files.values()):
        labels = [_read_class_file(files, name, file) for name, file in class_files.items()]
        return ImageLabels(names, labels)
    return _read_folders(files, names)


def _read_sample_index(files: NamedFiles, folder: str) -> ImageLabels:
    place = files.path / folder / INDEX
    try:
        records = json.loads(files.read_text(f"{folder}{INDEX}"))["images"]
        labels = {f"{folder}{record['file']}": record["label"] for record in records}
        is_valid = all(
            _is_seed(record.get("seed")) and _is_prompt(record.get("prompt")) for record in records
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _foreign_index(place) from error
    if not is_valid:
        raise _foreign_index(place)
    if not labels:
        raise UserError(f"{place}: lists no images")
    if len(labels) < len(records):
        twice, _ = Counter(record["file"] for record in records).most_common(1)[0]
        raise UserError(f"{place}: lists {twice} more than once; expected each image once")
    for name in labels.keys() - files.names:
        raise UserError(f"{files.path}: holds no {name}, which its {INDEX} lists")
    are_labels = all(isinstance(label, int) and label >= 0 for label in labels.values())
    return ImageLabels(list(labels), list(labels.values()) if are_labels else [], records=records)


def _foreign_index(place: Path) -> UserError:
    return UserError(
        f"{place}: is not what sample.py writes; expected 'images' of 'file', 'label', 'seed' and 'prompt'"
    )


def _is_seed(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _is_prompt(value: Any) -> bool:
    return value is None or value == "" or is_text(value)


def _read_edm_index(files: NamedFiles, names: list[str], folder: str) -> list[int]:
    place = files.path / folder / EDM_INDEX
    labels: dict[str, Any] = {}
    try:
        for name, label in json.loads(files.read_text(f"{folder}{EDM_INDEX}"))["labels"] or ():
            known = labels.setdefault(f"{folder}{plain_name(name)}", label)
            if known != label:
                raise UserError(f"{place}: lists {name} with the labels {known} and {label}; expected one")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{place}: is not EDM's; expected 'labels' of pairs of a file and a number"
        ) from error
    if not labels:
        return []
    for name in names:
        if name not in labels:
            raise UserError(f"{place}: lists no label for {name}; expected one for every image")
    for name in labels.keys() - set(names):
        raise UserError(f"{place}: lists {name}, which is not there")
    return [_check_label(labels[name], files.path / name) for name in names]


def _read_class_file(files: NamedFiles, name: str, class_file: str) -> int:
    if class_file not in files:
        expected = f"expected {Path(class_file).name} beside it, as others have one"
        raise UserError(f"{files.path / name}: has no label; {expected}")
    text = files.read_text(class_file).strip()
    try:
        return _check_label(int(text), files.path / name)
    except ValueError as error:
        raise UserError(
            f"{files.path / class_file}: holds {text[:40]!r}; expected the number of a class"
        ) from error


def _read_folders(files: NamedFiles, names: list[str]) -> ImageLabels:
    try:
        found = class_folders(names)
    except ValueError as error:
        raise UserError(f"{files.path}: {error}") from error
    pairs = zip(names, found.labels, strict=True) if found.labels else ()
    labels = [_check_label(label, files.path / name) for name, label in pairs]
    return ImageLabels(names, labels, found.classes, found.doubt)


def _check_label(label: Any, place: Path) -> int:
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label <= MAX_LABEL:
        raise UserError(f"{place}: its label is {label!r}; expected a number from 0 to {MAX_LABEL}")
    return label
