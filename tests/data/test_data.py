"""Real images: archives of EDM's form, and datasets of the `datasets` library."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from distill.config.errors import UserError
from distill.data.images import from_bytes
from distill.data.sources import image_folder
from distill.data.sources.hub_dataset import Settings
from distill.data.sources.image_folder import ImageFolder

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
EXPECTED = from_bytes(torch.from_numpy(PIXELS).permute(0, 3, 1, 2))


def test_a_zip_of_edm_s_dataset_tool(tmp_path: Path) -> None:
    names = [f"{row // 3:05d}/img{row:08d}.png" for row in range(5)]
    for row, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(PIXELS[row]).save(tmp_path / name)
    for file, labels in {
        "labelled.zip": list(zip(names, [3, 0, 1, 1, 6], strict=True)),
        "plain.zip": None,
    }.items():
        with zipfile.ZipFile(tmp_path / file, "w") as archive:
            archive.writestr("dataset.json", json.dumps({"labels": labels}))
            for name in names:
                archive.write(tmp_path / name, name)
    source = ImageFolder(tmp_path / "labelled.zip")
    assert (len(source), source.image_shape, source.label_count) == (5, (3, 8, 8), 7)
    assert [source[row][1] for row in range(5)] == [3, 0, 1, 1, 6]
    assert torch.equal(torch.stack([source[row][0] for row in range(5)]), EXPECTED)
    plain = ImageFolder(tmp_path / "plain.zip")
    assert (plain.label_count, plain[4][1]) == (0, 0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("dataset")
    columns: dict[str, Any] = {
        "image": [Image.fromarray(image) for image in PIXELS],
        "kind": [2, 0, 1, 2, 1],
        "text": [f"image {row}" for row in range(5)],
    }
    whole = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": whole, "test": whole.select(range(2))}).save_to_disk(folder / "saved")
    return folder / "saved"


def test_a_dataset_with_labels_or_captions(saved: Path) -> None:
    labelled = Settings(path=str(saved), label="kind", resolution=8, held_out_split="test")
    source = labelled.load()
    assert (len(source), source.image_shape, source.label_count, len(labelled.load("held_out"))) == (
        5,
        (3, 8, 8),
        3,
        2,
    )
    assert [source[row][1] for row in range(5)] == [2, 0, 1, 2, 1]
    assert torch.equal(torch.stack([source[row][0] for row in range(5)]), EXPECTED)
    captioned = Settings(path=str(saved), caption="text", resolution=4).load()
    assert (captioned.captions.texts[3], captioned[3][1], captioned.label_count) == ("image 3", 3, 0)
    assert captioned[3][0].shape == (3, 4, 4)


def test_a_dataset_that_is_not_so_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data.label: no column 'kinds' in .*; did you mean 'kind'\?$"):
        Settings(path=str(saved), label="kinds", resolution=8).load()
    with pytest.raises(UserError, match=r"^data.path: split 'tset' of .*saved cannot be opened \("):
        Settings(path=str(saved), split="tset", resolution=8).load()
    with pytest.raises(UserError, match=r"^data.path: split 'train' of .*nowhere cannot be opened \("):
        Settings(path=str(tmp_path / "nowhere"), resolution=8).load()
    with pytest.raises(UserError, match=r"^data.image: 'kind' of .* holds a int; expected images$"):
        Settings(path=str(saved), image="kind", resolution=8).load()[0]
    with pytest.raises(UserError, match=r"^data.held_out_split: no held-out split is given$"):
        Settings(path=str(saved), resolution=8).load("held_out")
    with pytest.raises(ValidationError, match="label: goes without caption"):
        Settings(path=str(saved), label="kind", caption="text", resolution=8)


def test_an_error_without_a_message_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(*arguments: object, **settings: object) -> None:
        raise OSError

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(UserError) as error:
        Settings(path="nobody/nothing", resolution=8).load()
    assert str(error.value) == "data.path: split 'train' of nobody/nothing cannot be opened (OSError)"


def test_pictures_of_any_size_are_scaled_to_the_resolution(tmp_path: Path) -> None:
    wide = np.full((8, 12, 3), 255, dtype=np.uint8)
    wide[:, 2:10] = (30, 60, 90)  # the central square
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(PIXELS[0]).save(tmp_path / "as_it_is.png")
    source = image_folder.Settings(path=tmp_path, resolution=8).load()
    assert source.image_shape == (3, 8, 8)
    images = [source[row][0] for row in range(2)]
    assert torch.equal(images[0], EXPECTED[0])
    assert torch.equal(images[1], torch.tensor([30, 60, 90]).view(3, 1, 1).expand(3, 8, 8) / 127.5 - 1)
    grey = image_folder.Settings(path=tmp_path, resolution=4, grey=True).load()
    assert grey[0][0].shape == grey.image_shape == (1, 4, 4)
    with pytest.raises(UserError, match=r"expected \(3, 8, 8\) as in as_it_is.png, or a data.resolution"):
        image_folder.Settings(path=tmp_path).load()[1]
