"""Find the classes of image files by the folders that they lie in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
"""Names of folders that are parts of a dataset, not classes."""
SHARD = re.compile(r"[^/:]*\.tar:")
"""Beginning of the name of a file in one of several archives."""


class ClassFolders(NamedTuple):
    """The label of each image, or no labels.

    `classes` are the folders whose positions are the labels; it is empty if the folders' numbers are the
    labels. `doubt` says why folders that might be classes were not taken for classes.
    """

    labels: list[int]
    classes: tuple[str, ...] = ()
    doubt: str | None = None


def shared_folder(names: Sequence[str]) -> str:
    """Return the innermost folder that holds all files, as their names begin: `photos/`, or nothing."""
    folders = [name.split("/")[:-1] for name in names]
    shared = ""
    for parts in zip(*folders, strict=False):  # the folders of one depth, as deep as all files lie
        if len(set(parts)) > 1:
            break
        shared += f"{parts[0]}/"
    return shared


def class_folders(names: Sequence[str]) -> ClassFolders:
    """Take the sub-folders of the folder that all files share for classes.

    The labels are the folders' names if all are numbers, else their positions in alphabetical order. Two
    folders of one number raise ValueError.
    """
    names = [SHARD.sub("", name, count=1) for name in names]
    shared = shared_folder(names)
    inner = [name.removeprefix(shared) for name in names]
    folders = sorted({name.split("/")[0] for name in inner if "/" in name})
    if len(folders) < 2:
        return ClassFolders([])
    doubt = _find_doubt(shared, inner, folders)
    if doubt is not None:
        return ClassFolders([], doubt=doubt)
    own = [name.split("/")[0] for name in inner]
    if all(folder.isascii() and folder.isdigit() for folder in folders):
        _check_numbers(folders)
        return ClassFolders([int(folder) for folder in own])
    positions = {folder: position for position, folder in enumerate(folders)}
    return ClassFolders([positions[folder] for folder in own], tuple(folders))


def _find_doubt(shared: str, inner: Sequence[str], folders: Sequence[str]) -> str | None:
    """Say why these folders may be no classes, or return None."""
    loose = [name for name in inner if "/" not in name]
    if loose:
        return (
            f"{shared}{loose[0]} lies beside the folders {_listed(folders)}; "
            "expected each image in the folder of its class"
        )
    if {folder.lower() for folder in folders} <= SPLITS:
        return (
            f"the folders {_listed(folders)} are parts of a dataset, no classes; "
            "expected the path of one of them"
        )
    return None


def _check_numbers(folders: Sequence[str]) -> None:
    last = {int(folder): folder for folder in folders}
    for folder in folders:
        other = last[int(folder)]
        if other != folder:
            raise ValueError(
                f"folders {folder} and {other} have one number; expected a folder for each class"
            )


def relabelled(labels: Sequence[int], classes: Sequence[str], others: Sequence[str]) -> list[int]:
    """Turn labels that are positions in `classes` into positions in `others`.

    A class that is not in `others` raises ValueError.
    """
    positions = {name: position for position, name in enumerate(others)}
    for name in classes:
        if name not in positions:
            raise ValueError(
                f"'{name}' is none of the classes of the training images; expected some of {_listed(others)}"
            )
    return [positions[classes[label]] for label in labels]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:7])}, ... ({len(names)})"
