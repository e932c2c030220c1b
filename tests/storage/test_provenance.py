"""The record of what made a file: versions of packages, and the commit."""

import importlib.metadata
import shutil
import subprocess
from pathlib import Path

import pytest

from distill.storage import provenance
from distill.storage.provenance import commit, version


def test_a_checkout_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", lookup)
    assert version("distill") == "not installed"


def test_the_commit_is_that_of_the_source_tree() -> None:
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    found = commit()
    assert found is not None
    assert found.removesuffix("+") == head.stdout.strip()


def test_a_package_installed_inside_another_project_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a virtual environment inside a user's repository, which ignores it."""
    file = shutil.copy(provenance.__file__, tmp_path)
    (tmp_path / "own.txt").touch()
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for words in (["init", "-q"], ["add", "own.txt"], [*author, "commit", "-qm", "begin"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    monkeypatch.setattr(provenance, "__file__", str(file))
    assert commit() is None
