"""Images are made once and kept; notes say what a reader must know of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from distill.config.errors import UserError
from distill.data.images import lossy_format
from distill.eval.preference.found_images import find_images
from distill.eval.preference.images import image_name
from distill.eval.preference.results import check_pairing, describe_images, notes_on_images
from distill.eval.preference.subject_spec import SubjectSpec
from distill.eval.prompt_sets import PromptSet
from distill.eval.prompt_sets.formats import Prompt
from tests.helpers.painted_images import (
    PROMPTS,
    Painter,
    numbered_prompts,
    paint,
    painted,
    save_numbered,
    save_sampled,
    score_with,
)
from tests.helpers.small_rewards import Brightness


def test_images_are_made_once_and_lossless(tmp_path: Path) -> None:
    painter = Painter()
    images = painted(tmp_path, painter)
    assert painter.rows == list(range(6))
    assert [images.prompt(row) for row in range(6)] == ["a cat", "a dog", "a house"] * 2
    assert images.seeds == [5, 6, 7, 8, 9, 10]
    assert all(torch.equal(images.pixels(row), paint(row)) for row in range(6))
    again = painted(tmp_path, painter)
    assert len(painter.rows) == 6
    assert [again.name(row) for row in range(6)] == [images.name(row) for row in range(6)]
    index = json.loads((images.files.path / "samples.json").read_text())
    assert {record["file"]: (record["seed"], record["prompt"]) for record in index["images"]} == {
        image_name(images.prompt(row), 5 + row): (5 + row, images.prompt(row)) for row in range(6)
    }
    assert index["kind"] == "painter"
    with Image.open(images.files.path / images.name(1)) as opened:
        assert json.loads(opened.info["Comment"]) == {"of": "the painter", "seed": 6, "prompt": "a dog"}
    painted(tmp_path, painter, weights="other")
    assert len(painter.rows) == 12  # another subject's images are others


def test_images_of_a_prompt_and_seed_serve_every_list_that_has_them(tmp_path: Path) -> None:
    painter = Painter()
    painted(tmp_path, painter, PROMPTS.first(2, None), 2)
    images = painted(tmp_path, painter, PROMPTS, 3)
    assert painter.rows == [0, 1, 2]
    assert len(images.files) == 3
    again = painted(tmp_path, painter, PROMPTS.first(2, None), 2)
    assert again.files.names == images.files.names  # the third still exists, and is listed


def test_another_prompt_of_the_same_seed_is_another_image(tmp_path: Path) -> None:
    painter = Painter()
    first = painted(tmp_path, painter, PromptSet.whole("a", "a", [Prompt("a cat")]), 1)
    second = painted(tmp_path, painter, PromptSet.whole("b", "b", [Prompt("a dog")]), 1)
    assert painter.rows == [0, 0]
    assert first.name(0) != second.name(0)
    (second.files.path / first.name(0)).unlink()
    again = painted(tmp_path, painter, PromptSet.whole("b", "b", [Prompt("a dog")]), 1)
    assert again.files.names == [second.name(0)]  # the index no longer lists the other


def test_an_interrupted_evaluation_makes_only_what_is_absent(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        painted(tmp_path, Painter(stop=3))  # in the second batch
    painter = Painter()
    images = painted(tmp_path, painter)
    assert painter.rows == [2, 3, 4, 5]
    assert all(torch.equal(images.pixels(row), paint(row)) for row in range(6))
    next(images.files.path.glob("00000007*.png")).unlink()
    painted(tmp_path, painter)
    assert painter.rows == [2, 3, 4, 5, 2]


def test_an_image_that_is_not_finite_is_refused_and_the_others_are_kept(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^1 of 6 images cannot be used: image 3 is not finite; the others are kept$"
    ):
        painted(tmp_path, Painter(broken=3))
    painter = Painter()
    painted(tmp_path, painter)
    assert painter.rows == [3]


def test_pairs_are_of_the_same_seeds(tmp_path: Path) -> None:
    first = painted(tmp_path, Painter())
    same = painted(tmp_path, Painter(), weights="other")
    assert check_pairing(first, same) == []
    expected = "expected 5 as the first subject's, win rates are of the same seeds"
    with pytest.raises(UserError, match=f"^--against: image 0 of 'a cat' has seed 6; {expected}$"):
        check_pairing(first, painted(tmp_path, Painter(), first_seed=6))


def test_a_repeated_seed_of_a_prompt_is_noted(tmp_path: Path) -> None:
    folder = Path(save_sampled(tmp_path / "made", ["a cat"], 3))
    index = json.loads((folder / "samples.json").read_text())
    for record, seed in zip(index["images"], (4, 4, 5), strict=True):
        record["seed"] = seed
    (folder / "samples.json").write_text(json.dumps(index))
    prompts = PromptSet.whole("mine", "mine.txt", [Prompt("a cat")])
    images = find_images(SubjectSpec("images", str(folder), "--images"), prompts, 3, tmp_path)
    assert images.repeated() == [1]
    (note,) = notes_on_images(images, score_with(images, Brightness(0.0)))
    repeated = f"1 of 3 images of {folder} repeat a seed of their prompt"
    assert note == f"{repeated}, and are no draws of their own: the first is {images.name(1)}"
    assert painted(tmp_path, Painter()).repeated() == []


def test_lossy_files_are_noted(tmp_path: Path) -> None:
    save_numbered(tmp_path / "made", ["0"], "jpg")
    save_numbered(tmp_path / "made", ["1"], "png")
    picture = Image.fromarray(paint(2).permute(1, 2, 0).numpy())
    picture.save(tmp_path / "made" / "2.webp", lossless=True)
    picture.save(tmp_path / "made" / "3.webp", quality=80)
    spec = SubjectSpec("images", str(tmp_path / "made"), "--images")
    images = find_images(spec, numbered_prompts(4), 1, tmp_path)
    found = score_with(images, Brightness(0.0))
    assert found.lossy == {"JPEG": 1, "WebP": 1}
    assert describe_images(images, found)["lossy"] == {"JPEG": 1, "WebP": 1}
    assert notes_on_images(images, found)[1:] == [
        f"1 JPEG, 1 WebP of 4 images of {tmp_path}/made: what compression left of them was scored"
    ]


@pytest.mark.parametrize(
    ("ending", "settings", "expected"),
    [
        ("png", {}, None),
        ("bmp", {}, None),
        ("ppm", {}, None),
        ("webp", {"lossless": True}, None),
        ("webp", {"quality": 80}, "WebP"),
        ("webp", {"quality": 80, "exif": Image.Exif()}, "WebP"),
        ("webp", {"lossless": True, "icc_profile": b"colours"}, None),
        ("webp", {"quality": 80, "icc_profile": b"colours"}, "WebP"),
        ("tif", {}, None),
        ("tif", {"compression": "tiff_lzw"}, None),
        ("tif", {"compression": "jpeg"}, "JPEG in TIFF"),
        ("jpg", {"quality": 100}, "JPEG"),
        ("jp2", {}, "JPEG 2000"),
        ("gif", {}, "GIF"),
    ],
)
def test_the_compression_of_a_file_is_known_by_its_content(
    ending: str, settings: dict[str, Any], expected: str | None, tmp_path: Path
) -> None:
    path = tmp_path / f"image.{ending}"
    noise = torch.randint(0, 256, (16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(noise.numpy()).save(path, **settings)
    assert lossy_format(path.read_bytes()) == expected
    assert lossy_format(b"no image") is None  # decoding it raises the error
