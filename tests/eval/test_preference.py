"""Preference scores: images made once, scores kept image by image, and the command from its arguments to its files."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import from_bytes, lossy_format, to_bytes
from distill.publishing.samples import save_samples
from distill.types import Condition
from eval.images.processes import Processes
from eval.preference.found_images import find_images
from eval.preference.images import PromptedImages, image_name, make_images
from eval.preference.results import check_pairing, describe_images, notes_on_images
from eval.preference.scores import Scorer, score_images
from eval.preference.subject_spec import SubjectSpec
from eval.preference.subjects import ImageSource
from eval.prompt_sets import PromptSet, read_prompt_set
from eval.prompt_sets.formats import Prompt
from tests.helpers.small_rewards import Brightness

PROMPTS = PromptSet.whole(
    "mine", "mine.txt", [Prompt("a cat", "animals"), Prompt("a dog", "animals"), Prompt("a house", "places")]
)
ALONE = Processes.single()


class Painter:
    """Images of one grey level each, that of their row; notes the rows, and stops at `stop` or makes `broken` ones."""

    def __init__(self, stop: int | None = None, broken: int | None = None) -> None:
        self.rows: list[int] = []
        self.stop, self.broken = stop, broken

    def subject(self, batch_size: int = 2, **identity: str) -> ImageSource:
        return ImageSource("the painter", {"kind": "painter", **identity}, batch_size, self.read)

    def read(self, rows: Sequence[int]) -> list[Tensor | UserError]:
        if self.stop is not None and any(row >= self.stop for row in rows):
            raise KeyboardInterrupt
        self.rows += rows
        return [UserError(f"image {row} is not finite") if row == self.broken else paint(row) for row in rows]


def paint(row: int) -> Tensor:
    return torch.full((3, 8, 8), 10 * row, dtype=torch.uint8)


def painted(
    root: Path,
    painter: Painter,
    prompts: PromptSet = PROMPTS,
    count: int = 6,
    first_seed: int = 5,
    **identity: str,
) -> PromptedImages:
    return make_images(
        painter.subject(**identity), prompts, range(first_seed, first_seed + count), root, ALONE, False
    )


def scorer(reward: Brightness, name: str = "brightness") -> Scorer:
    return Scorer(name, reward, {"score": name, "bias": reward.bias.item()})


def score(row: int, prompt: str, bias: float = 0.0) -> float:
    return 10 * row / 127.5 - 1 + len(prompt) / 100 + bias


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
    assert (
        painted(tmp_path, painter, PROMPTS.first(2, None), 2).files.names == images.files.names
    )  # the others are still there, and listed


def test_another_prompt_of_the_same_seed_is_another_image(tmp_path: Path) -> None:
    painter = Painter()
    first = painted(tmp_path, painter, PromptSet.whole("a", "a", [Prompt("a cat")]), 1)
    second = painted(tmp_path, painter, PromptSet.whole("b", "b", [Prompt("a dog")]), 1)
    assert painter.rows == [0, 0]
    assert first.name(0) != second.name(0)
    (second.files.path / first.name(0)).unlink()
    assert painted(tmp_path, painter, PromptSet.whole("b", "b", [Prompt("a dog")]), 1).files.names == [
        second.name(0)
    ]  # the index forgets it


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


def test_an_image_that_is_not_finite_stops_it_and_leaves_the_others(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"^1 of 6 images cannot be used: image 3 is not finite; the others are kept$"
    ):
        painted(tmp_path, Painter(broken=3))
    painter = Painter()
    painted(tmp_path, painter)
    assert painter.rows == [3]


def test_scores_are_right_and_computed_once(tmp_path: Path) -> None:
    painter, reward = Painter(), Brightness(0.0)
    images = painted(tmp_path, painter)
    found = score_images(images, scorer(reward), ALONE, False)
    expected = [score(row, images.prompt(row)) for row in range(6)]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-6)
    assert reward.asked == [("a cat", "a dog", "a house") * 2 + ("", "")]  # always as many at once
    assert torch.equal(score_images(images, scorer(reward), ALONE, False).values, found.values)
    assert len(reward.asked) == 1
    other = Brightness(2.0)
    assert score_images(images, scorer(other), ALONE, False).values.tolist() == pytest.approx(
        [value + 2 for value in expected], abs=1e-6
    )
    assert (len(other.asked), len(painter.rows)) == (
        1,
        6,
    )  # other weights are other scores of the same images
    assert (
        score_images(painted(tmp_path, painter), scorer(reward), ALONE, False).images_sha256
        == found.images_sha256
    )


def test_scores_go_on_where_they_stopped_even_in_the_middle_of_a_line(tmp_path: Path) -> None:
    images, reward = painted(tmp_path, Painter(), count=12), Brightness(0.0)
    whole = score_images(images, scorer(reward), ALONE, False)
    assert [len(batch) for batch in reward.asked] == [8, 8]
    (file,) = images.folder.glob("scores/*/0.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5]) + lines[5][:30])
    reward.asked.clear()
    again = score_images(images, scorer(reward), ALONE, False)
    assert torch.equal(again.values, whole.values)
    assert reward.asked == [(*(images.prompt(row) for row in range(5, 12)), "")]
    assert len(file.read_bytes().splitlines()) == 13  # the half line stands alone


def test_a_changed_image_is_scored_anew(tmp_path: Path) -> None:
    images, reward = painted(tmp_path, Painter()), Brightness(0.0)
    before = score_images(images, scorer(reward), ALONE, False)
    Image.fromarray(np.full((8, 8, 3), 255, dtype=np.uint8)).save(images.files.path / images.name(2))
    reward.asked.clear()
    again = painted(tmp_path, Painter())
    after = score_images(again, scorer(reward), ALONE, False)
    assert [batch[0] for batch in reward.asked] == ["a house"]
    assert after.values[2] == pytest.approx(1 + 0.07, abs=1e-6)
    assert torch.equal(after.values[[0, 1, 3, 4, 5]], before.values[[0, 1, 3, 4, 5]])
    assert after.images_sha256 != before.images_sha256


def test_a_score_that_is_not_finite_is_named(tmp_path: Path) -> None:
    images, reward = painted(tmp_path, Painter()), Brightness(0.0)
    reward.broken = "a dog"
    name = images.name(1)
    with pytest.raises(UserError) as caught:
        score_images(images, scorer(reward), ALONE, False)
    assert str(caught.value) == (
        f"2 of 6 images have no score: brightness of the painter: the score of {name} is nan, for 'a dog'; the scores of the others are kept"
    )
    reward.broken = None
    reward.asked.clear()
    score_images(images, scorer(reward), ALONE, False)
    assert reward.asked == [("a dog", "a dog") + ("",) * 6]


def test_a_score_does_not_depend_on_the_batch_nor_on_other_sizes(tmp_path: Path) -> None:
    """Grey and colour, of two sizes, among each other."""
    torch.manual_seed(0)
    shapes = [(3, 8, 8), (1, 8, 8), (3, 5, 9), (3, 8, 8)]
    pixels = [torch.randint(0, 256, shape, dtype=torch.uint8) for shape in shapes]
    folder = tmp_path / "mixed"
    folder.mkdir()
    for row, image in enumerate(pixels):
        Image.fromarray(
            image.permute(1, 2, 0).squeeze(2).numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
        ).save(folder / f"{row}.png")
    prompts = PromptSet.whole("mine", "mine.txt", [Prompt("a" * (row + 1)) for row in range(4)])
    reward = Brightness(0.0)
    found = score_images(
        find_images(SubjectSpec("images", str(folder), "--images"), prompts, 1, tmp_path / "store"),
        scorer(reward),
        ALONE,
        False,
    )
    expected = [from_bytes(image[None]).mean().item() + (row + 1) / 100 for row, image in enumerate(pixels)]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-6)
    assert {len(batch) for batch in reward.asked} == {8}


def sampled(folder: Path, prompts: Sequence[str], count: int, first_seed: int = 0) -> str:
    """A folder as `sample.py` writes it, of images as bright as their row."""
    images = from_bytes(torch.stack([paint(row) for row in range(count)]))
    assert torch.equal(to_bytes(images)[1], paint(1))
    save_samples(images, range(first_seed, first_seed + count), Condition(), folder, {"run": "x"}, prompts)
    return str(folder)


def test_images_that_are_there(tmp_path: Path) -> None:
    texts = ["a house", "a cat", "a dog"]
    asked = SubjectSpec("images", sampled(tmp_path / "made", texts, 6, 5), "--images")
    images = find_images(asked, PROMPTS, 2, tmp_path)
    assert [images.prompt(row) for row in range(6)] == ["a cat", "a dog", "a house"] * 2
    assert images.seeds == [6, 7, 5, 9, 10, 8]  # by their prompts
    assert torch.equal(images.pixels(0), paint(1))
    assert find_images(asked, PROMPTS.first(1, None), 1, tmp_path).seeds == [6]
    with pytest.raises(UserError, match=r"made: holds 2 images of the prompt 'a cat'; expected 3$"):
        find_images(asked, PROMPTS, 3, tmp_path)
    (tmp_path / "made" / "samples.json").unlink()
    (tmp_path / "made" / "grid.png").unlink()
    images = find_images(asked, PROMPTS, 2, tmp_path)
    assert images.seeds == [None] * 6
    assert torch.equal(images.pixels(1), paint(1))  # in the order of the prompts
    assert torch.equal(
        find_images(asked, PROMPTS.first(1, 1), 2, tmp_path).pixels(1),
        paint(3 + PROMPTS.first(1, 1).numbers[0]),
    )
    with pytest.raises(
        UserError, match=r"made: holds 6 images; expected 3, for 3 prompts of mine.txt an image each$"
    ):
        find_images(asked, PROMPTS, 1, tmp_path)


def test_a_score_is_of_an_image_for_its_prompt(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "made" / "0.png")
    asked, reward = SubjectSpec("images", str(tmp_path / "made"), "--images"), Brightness(0.0)
    for prompt in ("a cat", "a house"):
        images = find_images(asked, PromptSet.whole("mine", "mine.txt", [Prompt(prompt)]), 1, tmp_path)
        assert score_images(images, scorer(reward), ALONE, False).values.tolist() == pytest.approx(
            [-1 + len(prompt) / 100], abs=1e-6
        )
    assert len(reward.asked) == 2


def test_images_of_labels_that_are_there(tmp_path: Path) -> None:
    """By the labels that their index says, whatever the order."""
    made = from_bytes(torch.stack([paint(row) for row in range(4)]))
    save_samples(made, range(4), Condition(torch.tensor([1, 0, 0, 1])), tmp_path / "made", {"run": "x"})
    labels = PromptSet.whole(
        "labels", "labels:2", [Prompt(f"label {label}", None, label) for label in range(2)]
    )
    images = find_images(SubjectSpec("images", str(tmp_path / "made"), "--images"), labels, 2, tmp_path)
    assert images.seeds == [1, 0, 2, 3]
    label = images.condition([0, 1, 2, 3], 6).label
    assert label is not None
    assert label.tolist() == [0, 1, 0, 1, 0, 0]


def test_pairs_are_of_the_same_seeds(tmp_path: Path) -> None:
    first, same = painted(tmp_path, Painter()), painted(tmp_path, Painter(), weights="other")
    assert check_pairing(first, same) == []
    with pytest.raises(
        UserError,
        match=r"^--against: image 0 of 'a cat' has seed 6; expected 5 as the first subject's, win rates are of the same seeds$",
    ):
        check_pairing(first, painted(tmp_path, Painter(), first_seed=6))


def numbered(folder: Path, names: Sequence[str], ending: str = "png") -> SubjectSpec:
    """Images as bright as their place among the names, as another tool may leave them."""
    for place, name in enumerate(names):
        path = folder / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(paint(place).permute(1, 2, 0).numpy()).save(path)
    return SubjectSpec("images", str(folder), "--images")


def listed(count: int) -> PromptSet:
    return PromptSet.whole("mine", "mine.txt", [Prompt(f"prompt {number}") for number in range(count)])


@pytest.mark.parametrize("name", ["{}", "image_{}", "{:02d}", "sample{}-final"])
def test_unpadded_names_are_paired_in_the_order_of_their_numbers(name: str, tmp_path: Path) -> None:
    asked = numbered(tmp_path / "made", [name.format(number) for number in range(12)])
    images = find_images(asked, listed(12), 1, tmp_path)
    assert [int(images.pixels(row)[0, 0, 0]) for row in range(12)] == [10 * row for row in range(12)]
    assert [images.name(row) for row in range(12)] == [f"{name.format(row)}.png" for row in range(12)]
    third = find_images(asked, listed(12).first(1, 0), 1, tmp_path)
    (number,) = listed(12).first(1, 0).numbers
    assert int(third.pixels(0)[0, 0, 0]) == 10 * number


def test_pairing_by_order_is_said(tmp_path: Path) -> None:
    images = find_images(
        numbered(tmp_path / "made", [str(number) for number in range(12)]), listed(12), 1, tmp_path
    )
    found = score_images(images, scorer(Brightness(0.0)), ALONE, False)
    assert images.paired_by == "order"
    assert notes_on_images(images, found) == [
        f"the images of {tmp_path}/made are paired with prompts by their order: 0.png with 'prompt 0' first, 11.png with 'prompt 11' last"
    ]
    assert notes_on_images(painted(tmp_path, Painter()), found) == []


@pytest.mark.parametrize("name", ["{}_{}", "{:05d}/samples/{:04d}", "prompt{}/sample {}"])
def test_names_that_count_by_prompt_are_refused_and_in_turn_are_not(name: str, tmp_path: Path) -> None:
    by_prompt = [name.format(prompt, turn) for prompt in range(3) for turn in range(2)]
    with pytest.raises(UserError) as caught:
        find_images(numbered(tmp_path / "wrong", by_prompt), listed(3), 2, tmp_path)
    example = (
        f"{tmp_path}/wrong: names such as {by_prompt[1]}.png count the prompts and then the images of each"
    )
    expected = "expected the images in turn, one of every prompt before the second of the first, or a samples.json that names their prompts"
    assert str(caught.value) == f"{example}; {expected}"
    images = find_images(
        numbered(tmp_path / "right", [name.format(turn, prompt) for turn in range(2) for prompt in range(3)]),
        listed(3),
        2,
        tmp_path,
    )
    assert [int(images.pixels(row)[0, 0, 0]) for row in range(6)] == [0, 10, 20, 30, 40, 50]


COUNTED = {
    "as many prompts as images of each": (2, ["0-0", "0-1", "1-0", "1-1"]),
    "a number that goes on": (3, ["0-1000", "0-1001", "1-1002", "1-1003", "2-1004", "2-1005"]),
    "words": (3, ["cat-0", "cat-1", "dog-0", "dog-1", "owl-0", "owl-1"]),
}


@pytest.mark.parametrize(("count", "names"), COUNTED.values(), ids=COUNTED)
def test_other_names_that_count_by_prompt_are_refused_too(
    count: int, names: list[str], tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=f"made: names such as {names[1]}.png count the prompts and then the images of each"
    ):
        find_images(numbered(tmp_path / "made", names), listed(count), 2, tmp_path)


def test_an_index_that_names_some_prompts_and_folders_that_are_no_labels_are_refused(tmp_path: Path) -> None:
    asked = numbered(tmp_path / "made", ["0", "1"])
    records = [
        {"file": "0.png", "label": None, "prompt": "a cat"},
        {"file": "1.png", "label": None, "prompt": None},
    ]
    (tmp_path / "made" / "samples.json").write_text(json.dumps({"images": records}))
    with pytest.raises(
        UserError, match=r"samples.json: names no prompt of 1.png; expected one of each image, or of none$"
    ):
        find_images(asked, listed(2), 1, tmp_path)
    with pytest.raises(
        UserError,
        match=r"words: has sub-folders with names, .* expected none, or their names to be numbers, such as 0 and 1",
    ):
        find_images(
            numbered(tmp_path / "words", ["one/0", "two/0"]), read_prompt_set("labels:2"), 1, tmp_path
        )


def test_an_index_decides_the_order_of_its_images(tmp_path: Path) -> None:
    """An index of labels, or of none, lists images in the order in which they were made."""
    numbered(tmp_path / "made", ["b", "c", "a"])
    records = [{"file": f"{name}.png", "seed": seed, "label": None} for seed, name in enumerate("bca")]
    (tmp_path / "made" / "samples.json").write_text(json.dumps({"images": records}))
    images = find_images(SubjectSpec("images", str(tmp_path / "made"), "--images"), listed(3), 1, tmp_path)
    assert [images.name(row) for row in range(3)] == ["b.png", "c.png", "a.png"]
    assert images.seeds == [0, 1, 2]


@pytest.mark.parametrize("packed", ["folder", "tar", "zip"])
def test_other_content_of_the_same_size_and_time_is_scored_anew(packed: str, tmp_path: Path) -> None:
    reward, store = Brightness(0.0), tmp_path / "store"

    def found(level: int) -> float:
        folder, path = tmp_path / f"images-{level}", tmp_path / "made"
        folder.mkdir()
        Image.fromarray(np.full((8, 8, 3), level, dtype=np.uint8)).save(
            folder / "0.bmp"
        )  # as long whatever it holds
        os.utime(folder / "0.bmp", (1e9, 1e9))
        if packed == "folder":
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(folder, path)
        elif packed == "tar":
            with tarfile.open(path, "w") as archive:
                archive.add(folder / "0.bmp", "0.bmp")
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.write(folder / "0.bmp", "0.bmp")
        os.utime(path, (1e9, 1e9))
        images = find_images(SubjectSpec("images", str(path), "--images"), listed(1), 1, store)
        return score_images(images, scorer(reward), ALONE, False).values.item()

    assert found(10) == pytest.approx(10 / 127.5 - 1 + 0.08, abs=1e-6)
    assert found(20) == pytest.approx(20 / 127.5 - 1 + 0.08, abs=1e-6)
    assert len(reward.asked) == 2


def test_a_damaged_score_is_computed_anew_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, reward = painted(tmp_path, Painter()), Brightness(0.0)
    whole = score_images(images, scorer(reward), ALONE, False)
    (file,) = images.folder.glob("scores/*/0.jsonl")
    lines = file.read_text().splitlines()
    value = json.loads(lines[2])["score"]
    lines[2] = lines[2].replace(str(value)[:4], str(value + 1)[:4])  # still a score
    assert json.loads(lines[2])["score"] != value
    lines[4] = "[1, 2]"
    file.write_text("".join(f"{line}\n" for line in lines))
    reward.asked.clear()
    again = score_images(painted(tmp_path, Painter()), scorer(reward), ALONE, False)
    assert torch.equal(again.values, whole.values)
    assert [prompt for prompt in reward.asked[0] if prompt] == [images.prompt(2), images.prompt(4)]
    assert capsys.readouterr().err == f"{file.parent}: 2 stored scores are not whole and are left out\n"
    score_images(painted(tmp_path, Painter()), scorer(reward), ALONE, False)
    assert (len(reward.asked), capsys.readouterr().err) == (1, "")


def test_a_kill_loses_the_scores_of_a_few_images_at_most(tmp_path: Path) -> None:
    class Killed(Brightness):
        def forward(self, images: Tensor, cond: Condition) -> Tensor:
            if len(self.asked) == 3:
                raise KeyboardInterrupt
            return super().forward(images, cond)

    prompts = listed(40)
    images = find_images(
        numbered(tmp_path / "made", [str(number) for number in range(40)][:25]),
        prompts.first(25, None),
        1,
        tmp_path,
    )
    with pytest.raises(KeyboardInterrupt):
        score_images(images, scorer(Killed(0.0)), ALONE, False)
    (file,) = images.folder.glob("scores/*/0.jsonl")
    assert len(file.read_text().splitlines()) == 24


def test_lossy_files_are_said(tmp_path: Path) -> None:
    numbered(tmp_path / "made", ["0"], "jpg")
    numbered(tmp_path / "made", ["1"], "png")
    Image.fromarray(paint(2).permute(1, 2, 0).numpy()).save(tmp_path / "made" / "2.webp", lossless=True)
    Image.fromarray(paint(2).permute(1, 2, 0).numpy()).save(tmp_path / "made" / "3.webp", quality=80)
    images = find_images(SubjectSpec("images", str(tmp_path / "made"), "--images"), listed(4), 1, tmp_path)
    found = score_images(images, scorer(Brightness(0.0)), ALONE, False)
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
    assert lossy_format(b"no image") is None  # who decodes it says what is wrong


def test_a_seed_twice_for_a_prompt_is_said(tmp_path: Path) -> None:
    folder = Path(sampled(tmp_path / "made", ["a cat"], 3))
    index = json.loads((folder / "samples.json").read_text())
    for record, seed in zip(index["images"], (4, 4, 5), strict=True):
        record["seed"] = seed
    (folder / "samples.json").write_text(json.dumps(index))
    prompts = PromptSet.whole("mine", "mine.txt", [Prompt("a cat")])
    images = find_images(SubjectSpec("images", str(folder), "--images"), prompts, 3, tmp_path)
    assert images.repeated() == [1]
    (note,) = notes_on_images(images, score_images(images, scorer(Brightness(0.0)), ALONE, False))
    assert (
        note
        == f"1 of 3 images of {folder} repeat a seed of their prompt, and are no draws of their own: the first is {images.name(1)}"
    )
    assert painted(tmp_path, Painter()).repeated() == []
