"""A room imports only rooms of lower ranks, no files import each other in a circle, folders stay small."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RANKS = (
    ("distill.config",),
    ("distill.storage",),
    ("distill.types",),
    ("distill.divergences", "distill.diffusion", "distill.data"),
    ("distill.networks",),
    ("distill.objectives",),
    ("distill.teachers", "distill.students", "distill.rewards"),
    ("distill.publishing",),
    ("distill.training",),
    ("distill", "distill.exported_pipeline"),
    ("distill.eval",),
    ("distill.__main__",),
    ("sample", "train"),
)
"""Rooms from the lowest rank up. Rooms of one rank do not import each other."""
MAX_ENTRIES = 15
"""Maximum number of files and rooms in a folder, beside those in `UNCOUNTED`."""
UNCOUNTED = ("__init__.py", "__main__.py", "__pycache__", "py.typed")


def sources() -> list[Path]:
    """Return every source file of the package and of the two programs."""
    return [*ROOT.glob("distill/**/*.py"), ROOT / "sample.py", ROOT / "train.py"]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def modules() -> frozenset[str]:
    return frozenset(module_of(path) for path in sources())


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """Return the project's modules that a file imports, at its top or inside a function."""
    return tuple(sorted(set(_imports(path)) & modules()))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in modules() else node.module


def room_of(module: str) -> str:
    """Return the innermost room that holds a module."""
    rooms = [room for rank in RANKS for room in rank]
    return max((room for room in rooms if module == room or module.startswith(f"{room}.")), key=len)


def rank_of(room: str) -> int:
    (place,) = [place for place, rank in enumerate(RANKS) if room in rank]
    return place


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    room = room_of(module_of(path))
    others = {module: room_of(module) for module in imports(path) if room_of(module) != room}
    upward = [module for module, other in others.items() if rank_of(other) >= rank_of(room)]
    assert not upward, f"{module_of(path)} imports {', '.join(upward)}"


def test_every_file_is_in_a_room() -> None:
    assert [module for module in modules() if room_of(module) == "distill" and module != "distill"] == []


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {module_of(path): imports(path) for path in sources()}
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in finished:
            for other in graph[module]:
                visit(other, (*path, module))
            finished.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_folders_have_few_entries() -> None:
    for folder in sorted({path.parent for path in sources()} - {ROOT}):
        entries = [entry.name for entry in folder.iterdir() if entry.name not in UNCOUNTED]
        assert len(entries) <= MAX_ENTRIES, f"{folder.relative_to(ROOT)}: {sorted(entries)}"


def test_the_types_import_nothing_but_each_other() -> None:
    for path in ROOT.glob("distill/types/*.py"):
        others = [module for module in imports(path) if not module.startswith("distill.types")]
        assert others == [], module_of(path)


def test_test_files_have_names_of_their_own() -> None:
    """pytest imports them by their names alone."""
    names = [path.name for path in ROOT.glob("tests/**/test_*.py")]
    assert len(names) == len(set(names))
