"""Shapes and types of functions are checked while tests run."""

import sys

import pytest
from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401 - the hook below looks it up

install_import_hook(["distill", "eval"], "tests.typechecker.check")


@pytest.fixture
def code_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place of its own for the code that diffusers copies out of a pipeline's folder before it runs it."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
    monkeypatch.setattr(sys, "path", [*sys.path])
