"""Scores are computed once, stored image by image, and computed again if something changed."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import from_bytes
from distill.eval.preference.found_images import find_images
from distill.eval.preference.subject_spec import SubjectSpec
from distill.eval.prompt_sets import PromptSet
from distill.eval.prompt_sets.formats import Prompt
from distill.types import Condition
from tests.helpers.painted_images import (
    Painter,
    expected_score,
    numbered_prompts,
    painted,
    save_numbered,
    score_with,
)
from tests.helpers.small_rewards import Brightness


def test_scores_are_right_and_computed_once(tmp_path: Path) -> None:
    painter = Painter()
    reward = Brightness(0.0)
    images = painted(tmp_path, painter)
    found = score_with(images, reward)
    expected = [expected_score(row, images.prompt(row)) for row in range(6)]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-6)
    assert reward.asked == [("a cat", "a dog", "a house") * 2 + ("", "")]  # always 8 at once
    assert torch.equal(score_with(images, reward).values, found.values)
    assert len(reward.asked) == 1
    other = Brightness(2.0)
    assert score_with(images, other).values.tolist() == pytest.approx(
        [value + 2 for value in expected], abs=1e-6
    )
    assert len(other.asked) == 1  # other weights give other scores
    assert len(painter.rows) == 6  # of the same images
    assert score_with(painted(tmp_path, painter), reward).images_sha256 == found.images_sha256


def test_scores_continue_where_they_stopped_even_in_the_middle_of_a_line(tmp_path: Path) -> None:
    images = painted(tmp_path, Painter(), count=12)
    reward = Brightness(0.0)
    whole = score_with(images, reward)
    assert [len(batch) for batch in reward.asked] == [8, 8]
    (file,) = images.folder.glob("scores/*/0.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5]) + lines[5][:30])
    reward.asked.clear()
    again = score_with(images, reward)
    assert torch.equal(again.values, whole.values)
    assert reward.asked == [(*(images.prompt(row) for row in range(5, 12)), "")]
    assert len(file.read_bytes().splitlines()) == 13  # the half line stands alone


def test_a_changed_image_is_scored_again(tmp_path: Path) -> None:
    images = painted(tmp_path, Painter())
    reward = Brightness(0.0)
    before = score_with(images, reward)
    Image.fromarray(np.full((8, 8, 3), 255, dtype=np.uint8)).save(images.files.path / images.name(2))
    reward.asked.clear()
    again = painted(tmp_path, Painter())
    after = score_with(again, reward)
    assert [batch[0] for batch in reward.asked] == ["a house"]
    assert after.values[2] == pytest.approx(1 + 0.07, abs=1e-6)
    assert torch.equal(after.values[[0, 1, 3, 4, 5]], before.values[[0, 1, 3, 4, 5]])
    assert after.images_sha256 != before.images_sha256


def test_a_score_that_is_not_finite_is_named(tmp_path: Path) -> None:
    images = painted(tmp_path, Painter())
    reward = Brightness(0.0)
    reward.broken = "a dog"
    name = images.name(1)
    with pytest.raises(UserError) as caught:
        score_with(images, reward)
    assert str(caught.value) == (
        f"2 of 6 images have no scores: brightness of the painter: the score of {name} is nan, for 'a dog'; "
        "the scores of the others are kept"
    )
    reward.broken = None
    reward.asked.clear()
    score_with(images, reward)
    assert reward.asked == [("a dog", "a dog") + ("",) * 6]


def test_a_score_does_not_depend_on_the_batch_nor_on_other_sizes(tmp_path: Path) -> None:
    """The images are grey and in colour, and of two sizes."""
    torch.manual_seed(0)
    shapes = [(3, 8, 8), (1, 8, 8), (3, 5, 9), (3, 8, 8)]
    pixels = [torch.randint(0, 256, shape, dtype=torch.uint8) for shape in shapes]
    folder = tmp_path / "mixed"
    folder.mkdir()
    for row, image in enumerate(pixels):
        levels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
        Image.fromarray(levels.numpy()).save(folder / f"{row}.png")
    prompts = PromptSet.whole("mine", "mine.txt", [Prompt("a" * (row + 1)) for row in range(4)])
    reward = Brightness(0.0)
    spec = SubjectSpec("images", str(folder), "--images")
    found = score_with(find_images(spec, prompts, 1, tmp_path / "store"), reward)
    expected = [from_bytes(image[None]).mean().item() + (row + 1) / 100 for row, image in enumerate(pixels)]
    assert found.values.tolist() == pytest.approx(expected, abs=1e-6)
    assert {len(batch) for batch in reward.asked} == {8}


def test_a_score_is_of_an_image_for_its_prompt(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "made" / "0.png")
    spec = SubjectSpec("images", str(tmp_path / "made"), "--images")
    reward = Brightness(0.0)
    for prompt in ("a cat", "a house"):
        images = find_images(spec, PromptSet.whole("mine", "mine.txt", [Prompt(prompt)]), 1, tmp_path)
        assert score_with(images, reward).values.tolist() == pytest.approx([-1 + len(prompt) / 100], abs=1e-6)
    assert len(reward.asked) == 2


@pytest.mark.parametrize("packed", ["folder", "tar", "zip"])
def test_other_content_of_the_same_size_and_time_is_scored_again(packed: str, tmp_path: Path) -> None:
    reward = Brightness(0.0)
    store = tmp_path / "store"

    def found(level: int) -> float:
        folder = tmp_path / f"images-{level}"
        path = tmp_path / "made"
        folder.mkdir()
        # A BMP file has the same size whatever its pixels.
        Image.fromarray(np.full((8, 8, 3), level, dtype=np.uint8)).save(folder / "0.bmp")
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
        images = find_images(SubjectSpec("images", str(path), "--images"), numbered_prompts(1), 1, store)
        return score_with(images, reward).values.item()

    assert found(10) == pytest.approx(10 / 127.5 - 1 + 0.08, abs=1e-6)
    assert found(20) == pytest.approx(20 / 127.5 - 1 + 0.08, abs=1e-6)
    assert len(reward.asked) == 2


def test_a_damaged_score_is_computed_again_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = painted(tmp_path, Painter())
    reward = Brightness(0.0)
    whole = score_with(images, reward)
    (file,) = images.folder.glob("scores/*/0.jsonl")
    lines = file.read_text().splitlines()
    value = json.loads(lines[2])["score"]
    lines[2] = lines[2].replace(str(value)[:4], str(value + 1)[:4])  # still a score
    assert json.loads(lines[2])["score"] != value
    lines[4] = "[1, 2]"
    file.write_text("".join(f"{line}\n" for line in lines))
    reward.asked.clear()
    again = score_with(painted(tmp_path, Painter()), reward)
    assert torch.equal(again.values, whole.values)
    assert [prompt for prompt in reward.asked[0] if prompt] == [images.prompt(2), images.prompt(4)]
    assert capsys.readouterr().err == f"{file.parent}: 2 stored scores are not whole and are left out\n"
    score_with(painted(tmp_path, Painter()), reward)
    assert (len(reward.asked), capsys.readouterr().err) == (1, "")


def test_a_kill_loses_the_scores_of_a_few_images_at_most(tmp_path: Path) -> None:
    class Killed(Brightness):
        def forward(self, images: Tensor, cond: Condition) -> Tensor:
            if len(self.asked) == 3:
                raise KeyboardInterrupt
            return super().forward(images, cond)

    prompts = numbered_prompts(40)
    spec = save_numbered(tmp_path / "made", [str(number) for number in range(25)])
    images = find_images(spec, prompts.first(25, None), 1, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        score_with(images, Killed(0.0))
    (file,) = images.folder.glob("scores/*/0.jsonl")
    assert len(file.read_text().splitlines()) == 24
