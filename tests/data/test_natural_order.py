"""The order of numbered files, by hand."""

from __future__ import annotations

import random

import pytest

from distill.data.natural_order import natural_key, parts_of


@pytest.mark.parametrize(
    "ordered",
    [
        [f"{number}.png" for number in (0, 1, 2, 9, 10, 11, 99, 100, 1000)],
        ["image.png", "image1.png", "image2.png", "image10.png", "image10a.png", "images.png"],
        ["a/1.png", "a/2.png", "a/10.png", "a2/1.png", "a10/1.png", "b.png"],
        ["seed-1-step-9.png", "seed-1-step-10.png", "seed-2-step-1.png", "seed-10-step-1.png"],
        ["shard-2.tar:7.jpg", "shard-10.tar:7.jpg"],
        ["007.png", "07.png", "7.png", "8.png"],
        ["1.jpg", "1.png", "2.jpg"],
        ["", ".png", "x"],
        ["²1.png", "²2.png", "²10.png"],
    ],
)
def test_numbers_count(ordered: list[str]) -> None:
    for seed in range(3):
        shuffled = random.Random(seed).sample(ordered, len(ordered))
        assert sorted(shuffled, key=natural_key) == ordered


def test_padded_names_are_in_the_order_of_strings() -> None:
    names = [
        f"{folder:05d}/img{number:08d}.png"
        for folder in range(3)
        for number in random.Random(0).sample(range(10**7), 20)
    ]
    assert sorted(names, key=natural_key) == sorted(names)


def test_parts_of_a_path() -> None:
    assert parts_of("run7/0003-12.jp2") == ["run", 7, "/", 3, "-", 12, ""]
    assert parts_of("cat.png") == ["cat"]
