"""Classes of image files by the folders that they lie in."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
"""Names of folders that are parts of a dataset, not classes."""
SHARD = re.compile(r"[^/:]*\.tar:")
"""Begins the names of images in one of several archives."""


class ClassFolders(NamedTuple):
    """The label of each image, or of none; the folders whose places are the labels, none where their numbers are; and why folders that might be
    classes are not taken for any."""

    labels: list[int]
    classes: tuple[str, ...] = ()
    doubt: str | None = None


def shared_folder(names: Sequence[str]) -> str:
    """The folder that all files lie in, as their names begin: `photos/`, or nothing."""
    folders = [name.split("/")[:-1] for name in names]
    shared = [
        parts[0]
        for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    ]
    return "".join(f"{part}/" for part in shared)


def class_folders(names: Sequence[str]) -> ClassFolders:
    """Classes by the sub-folders of the folder that all files share: their numbers, where all are numbers, else their places in their order.

    Raises ValueError where two folders have one number.
    """
    names = [SHARD.sub("", name, count=1) for name in names]
    shared = shared_folder(names)
    inner = [name.removeprefix(shared) for name in names]
    folders = sorted({name.split("/")[0] for name in inner if "/" in name})
    if len(folders) < 2:
        return ClassFolders([])
    loose = next((name for name in inner if "/" not in name), None)
    if loose is not None:
        return ClassFolders(
            [],
            doubt=f"{shared}{loose} lies beside the folders {_listed(folders)}; expected each image in the folder of its class",
        )
    if {folder.lower() for folder in folders} <= SPLITS:
        return ClassFolders(
            [],
            doubt=f"the folders {_listed(folders)} are parts of a dataset, no classes; expected the path of one of them",
        )
    own = [name.split("/")[0] for name in inner]
    if not all(folder.isascii() and folder.isdigit() for folder in folders):
        places = {folder: place for place, folder in enumerate(folders)}
        return ClassFolders([places[folder] for folder in own], tuple(folders))
    numbers = {int(folder): folder for folder in folders}
    if len(numbers) < len(folders):
        twice = next(folder for folder in folders if numbers[int(folder)] != folder)
        raise ValueError(
            f"folders {twice} and {numbers[int(twice)]} have one number; expected a folder for each class"
        )
    return ClassFolders([int(folder) for folder in own])


def relabelled(labels: Sequence[int], classes: Sequence[str], others: Sequence[str]) -> list[int]:
    """Labels that are places in `classes`, as places in `others`. Raises ValueError, naming it, where a class is none of them."""
    places = {name: place for place, name in enumerate(others)}
    unknown = next((name for name in classes if name not in places), None)
    if unknown is not None:
        raise ValueError(
            f"'{unknown}' is none of the classes of the training images; expected some of {_listed(others)}"
        )
    return [places[classes[label]] for label in labels]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:7])}, ... ({len(names)})"
