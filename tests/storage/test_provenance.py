"""The record of what made a file: versions of packages."""

import importlib.metadata

import pytest

from distill.storage.provenance import version


def test_a_checkout_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", lookup)
    assert version("distill") == "not installed"
