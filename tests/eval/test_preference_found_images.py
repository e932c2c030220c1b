"""Images that exist already: how they are paired with prompts, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from distill.config.errors import UserError
from distill.data.images import from_bytes
from distill.eval.preference.found_images import find_images
from distill.eval.preference.results import notes_on_images
from distill.eval.preference.subject_spec import SubjectSpec
from distill.eval.prompt_sets import PromptSet, read_prompt_set
from distill.eval.prompt_sets.formats import Prompt
from distill.publishing.samples import save_samples
from distill.types import Condition
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

TEXTS = ["a house", "a cat", "a dog"]


def test_an_index_decides_the_prompts_of_its_images(tmp_path: Path) -> None:
    spec = SubjectSpec("images", save_sampled(tmp_path / "made", TEXTS, 6, 5), "--images")
    images = find_images(spec, PROMPTS, 2, tmp_path)
    assert [images.prompt(row) for row in range(6)] == ["a cat", "a dog", "a house"] * 2
    assert images.seeds == [6, 7, 5, 9, 10, 8]
    assert torch.equal(images.pixels(0), paint(1))
    assert find_images(spec, PROMPTS.first(1, None), 1, tmp_path).seeds == [6]
    with pytest.raises(UserError, match=r"made: holds 2 images of the prompt 'a cat'; expected 3$"):
        find_images(spec, PROMPTS, 3, tmp_path)


def test_without_an_index_images_are_in_the_order_of_the_prompts(tmp_path: Path) -> None:
    spec = SubjectSpec("images", save_sampled(tmp_path / "made", TEXTS, 6, 5), "--images")
    (tmp_path / "made" / "samples.json").unlink()
    (tmp_path / "made" / "grid.png").unlink()
    images = find_images(spec, PROMPTS, 2, tmp_path)
    assert images.seeds == [None] * 6
    assert torch.equal(images.pixels(1), paint(1))
    one = PROMPTS.first(1, 1)
    assert torch.equal(find_images(spec, one, 2, tmp_path).pixels(1), paint(3 + one.numbers[0]))
    with pytest.raises(
        UserError, match=r"made: holds 6 images; expected 3, for 3 prompts of mine.txt an image each$"
    ):
        find_images(spec, PROMPTS, 1, tmp_path)


def test_an_index_decides_the_labels_of_its_images(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("name", ["{}", "image_{}", "{:02d}", "sample{}-final"])
def test_unpadded_names_are_paired_in_the_order_of_their_numbers(name: str, tmp_path: Path) -> None:
    spec = save_numbered(tmp_path / "made", [name.format(number) for number in range(12)])
    images = find_images(spec, numbered_prompts(12), 1, tmp_path)
    assert [int(images.pixels(row)[0, 0, 0]) for row in range(12)] == [10 * row for row in range(12)]
    assert [images.name(row) for row in range(12)] == [f"{name.format(row)}.png" for row in range(12)]
    third = find_images(spec, numbered_prompts(12).first(1, 0), 1, tmp_path)
    (number,) = numbered_prompts(12).first(1, 0).numbers
    assert int(third.pixels(0)[0, 0, 0]) == 10 * number


def test_pairing_by_order_is_noted(tmp_path: Path) -> None:
    spec = save_numbered(tmp_path / "made", [str(number) for number in range(12)])
    images = find_images(spec, numbered_prompts(12), 1, tmp_path)
    found = score_with(images, Brightness(0.0))
    assert images.paired_by == "order"
    assert notes_on_images(images, found) == [
        f"the images of {tmp_path}/made are paired with prompts by their order: "
        "0.png with 'prompt 0' first, 11.png with 'prompt 11' last"
    ]
    assert notes_on_images(painted(tmp_path, Painter()), found) == []


@pytest.mark.parametrize("name", ["{}_{}", "{:05d}/samples/{:04d}", "prompt{}/sample {}"])
def test_names_that_count_by_prompt_are_refused_and_in_turn_are_not(name: str, tmp_path: Path) -> None:
    by_prompt = [name.format(prompt, turn) for prompt in range(3) for turn in range(2)]
    with pytest.raises(UserError) as caught:
        find_images(save_numbered(tmp_path / "wrong", by_prompt), numbered_prompts(3), 2, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/wrong: names such as {by_prompt[1]}.png count the prompts and then the images of each; "
        "expected the images in turn, one of every prompt before the second of the first, "
        "or a samples.json that names their prompts"
    )
    in_turn = [name.format(turn, prompt) for turn in range(2) for prompt in range(3)]
    spec = save_numbered(tmp_path / "right", in_turn)
    images = find_images(spec, numbered_prompts(3), 2, tmp_path)
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
        find_images(save_numbered(tmp_path / "made", names), numbered_prompts(count), 2, tmp_path)


def test_an_index_that_names_only_some_prompts_is_refused(tmp_path: Path) -> None:
    spec = save_numbered(tmp_path / "made", ["0", "1"])
    records = [
        {"file": "0.png", "label": None, "prompt": "a cat"},
        {"file": "1.png", "label": None, "prompt": None},
    ]
    (tmp_path / "made" / "samples.json").write_text(json.dumps({"images": records}))
    with pytest.raises(
        UserError, match=r"samples.json: names no prompt of 1.png; expected one of each image, or of none$"
    ):
        find_images(spec, numbered_prompts(2), 1, tmp_path)


def test_folders_whose_names_are_no_labels_are_refused(tmp_path: Path) -> None:
    spec = save_numbered(tmp_path / "words", ["one/0", "two/0"])
    expected = "expected none, or their names to be numbers, such as 0 and 1"
    with pytest.raises(UserError, match=f"words: has sub-folders with names, .* {expected}"):
        find_images(spec, read_prompt_set("labels:2"), 1, tmp_path)


def test_an_index_decides_the_order_of_its_images(tmp_path: Path) -> None:
    """An index of labels, or of none, lists images in the order in which they were made."""
    save_numbered(tmp_path / "made", ["b", "c", "a"])
    records = [{"file": f"{name}.png", "seed": seed, "label": None} for seed, name in enumerate("bca")]
    (tmp_path / "made" / "samples.json").write_text(json.dumps({"images": records}))
    spec = SubjectSpec("images", str(tmp_path / "made"), "--images")
    images = find_images(spec, numbered_prompts(3), 1, tmp_path)
    assert [images.name(row) for row in range(3)] == ["b.png", "c.png", "a.png"]
    assert images.seeds == [0, 1, 2]
