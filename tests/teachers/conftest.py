"""Pipelines that the tests of teachers share."""

from __future__ import annotations

import pytest

from tests.helpers.diffusers_inputs import PipelineFolders


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> PipelineFolders:
    """Tiny pipelines of every family, each made when a test first asks for it."""
    return PipelineFolders(tmp_path_factory.mktemp("pipelines"))
