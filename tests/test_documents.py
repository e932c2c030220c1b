"""Documents name files and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = (ROOT, ROOT / "distill", ROOT / "tests")
"""Paths in documents start in one of these."""


def find(path: str) -> Path | None:
    return next((folder / path for folder in FOLDERS if (folder / path).exists()), None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    absent = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert absent == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_source_files_exist(page: Path) -> None:
    named = set(re.findall(r"`([\w./-]+/[\w./-]+\.py)(?:::\w+)?`", page.read_text(encoding="utf-8")))
    assert sorted(path for path in named if find(path) is None) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_tests_exist(page: Path) -> None:
    absent = []
    for path, name in re.findall(r"`([\w./-]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        file = find(path)
        if file is None or f"def {name}(" not in file.read_text(encoding="utf-8"):
            absent.append(f"{path}::{name}")
    assert absent == []
