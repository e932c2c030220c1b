"""Runs here show two previews, since many-step samplers are slow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def few_previews() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill.training.trainer.preview_count", lambda shape: 2)
        yield
