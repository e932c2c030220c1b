"""Find damaged checkpoints, and the newest one that is whole."""

from __future__ import annotations

import dataclasses
import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distill.config.errors import UserError
from distill.networks.folder import MANIFEST, PROGRESS, checkpoints
from distill.storage.files import read_mapping
from distill.storage.tensors import file_sha256
from distill.training.parallel.errors import raised_by_all
from distill.training.parallel.processes import Processes


@dataclasses.dataclass(frozen=True)
class Damage:
    """A checkpoint that cannot be used, and why: a file of it `is missing`, say."""

    folder: Path
    file: str
    state: str


def find_damage(folder: Path, processes: Processes) -> Damage | None:
    """Compare the files of a checkpoint with its manifest, and return the first that differs.

    Processes share the files among them, and all get the same answer.
    """
    listed: list[tuple[str, object]] | Damage = []
    with raised_by_all(processes):
        if processes.is_main:
            listed = _listed(folder)
    # Only the main process reads the manifest: others may see an older state of the folder.
    listed = processes.main_object(listed)
    if isinstance(listed, Damage):
        return listed
    own: list[Damage | None] = []
    with raised_by_all(processes), ThreadPoolExecutor() as pool:
        own = list(pool.map(lambda entry: _check(folder, *entry), processes.share(listed)))
    found = [damage for of_one in processes.gather_objects(own) for damage in of_one if damage is not None]
    return min(found, key=lambda damage: damage.file, default=None)


def require_whole(folder: Path, processes: Processes) -> None:
    """Refuse a damaged checkpoint."""
    damage = find_damage(folder, processes)
    if damage is not None:
        raise UserError(
            f"{folder / damage.file}: {damage.state}; remove {folder} to continue from an earlier checkpoint"
        )


def newest_whole(run_dir: Path, processes: Processes) -> tuple[Path | None, list[Damage]]:
    """Return the newest checkpoint of a run without damage, and those after it, which have some.

    If all are damaged, they are refused: it is the user who decides to lose them. A run without checkpoints
    has None.
    """
    damaged: list[Damage] = []
    for folder in reversed(processes.main_object(checkpoints(run_dir))):
        damage = find_damage(folder, processes)
        if damage is None:
            return folder, damaged
        damaged.append(damage)
    if damaged:
        newest = damaged[0]
        raise UserError(
            f"{newest.folder / newest.file}: {newest.state}, and there is no whole checkpoint before it; "
            f"remove {newest.folder.parent} to start from the first step"
        )
    return None, []


def set_aside(folder: Path, why: str) -> Path:
    """Rename a checkpoint, so that it is no longer one; it is left for a person to look at."""
    number, aside = 1, folder.with_name(f"{folder.name}.{why}")
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{folder.name}.{why}-{number}")
    return folder.rename(aside)


def _listed(folder: Path) -> list[tuple[str, object]] | Damage:
    """Return names and hashes of the files that a checkpoint must have, the largest first.

    Processes take them in turn, so that each has about as much to read.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such checkpoint")
    try:
        hashes = {PROGRESS: None, **read_mapping(folder / MANIFEST)}
    except UserError as error:
        return Damage(folder, MANIFEST, str(error).removeprefix(f"{folder / MANIFEST}: "))

    def size(name: str) -> int:
        file = folder / name
        return file.stat().st_size if file.is_file() else 0

    return sorted(hashes.items(), key=lambda entry: (-size(entry[0]), entry[0]))


def _check(folder: Path, name: str, expected: object) -> Damage | None:
    file = folder / name
    if not file.is_file():
        return Damage(folder, name, "is missing")
    try:
        found = file_sha256(file)
    except OSError as error:
        if error.errno != errno.EIO:  # others are of the machine, not of the file
            raise UserError(f"{file}: cannot be read ({error.strerror})") from error
        return Damage(folder, name, "cannot be read")
    return None if found == expected else Damage(folder, name, "is damaged")
