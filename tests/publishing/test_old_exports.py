"""Exports from before the modules moved into rooms, whose code imports `distill.exported_pipeline`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.helpers.exported import exported, opened, own_student

pytestmark = pytest.mark.usefixtures("code_cache")

PLACE = "distill.publishing.diffusers_pipeline"
OLD_PLACE = "distill.exported_pipeline"


def write_as_before(export: Path) -> None:
    """Give the code in an export the import that earlier versions wrote."""
    for path in (export / "pipeline.py", export / "network" / "network.py"):
        text = path.read_text()
        assert text.count(PLACE) == 1
        path.write_text(text.replace(PLACE, OLD_PLACE))


def test_an_old_export_opens_and_makes_the_same_images(tmp_path: Path) -> None:
    folder = exported(own_student("unet", tmp_path), tmp_path / "export")
    z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    new = opened(folder)([3, 1], latents=z, output_type="pt").images
    write_as_before(folder)
    old = opened(folder)([3, 1], latents=z, output_type="pt").images
    assert torch.equal(old, new)
