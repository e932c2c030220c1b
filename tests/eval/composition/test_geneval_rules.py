"""GenEval's rules beside an independent implementation, and its list of prompts."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.config.errors import UserError
from distill.eval.composition.geneval.requirements import (
    POSITIONS,
    Clause,
    Requirement,
    read_requirements,
)
from distill.eval.composition.geneval.rules import Detection, judge, keep_objects, relative_position
from tests.helpers.geneval_prompts import entry, published, write

Box = tuple[float, float, float, float]


def expected_relations(box: Box, target: Box) -> set[str]:
    """Return the relations of two boxes, computed with arrays."""
    a, b = np.reshape(box, (2, 2)), np.reshape(target, (2, 2))
    offset = a.mean(0) - b.mean(0)
    slack = 0.1 * (a[1] - a[0] + b[1] - b[0])
    beyond = np.where(np.abs(offset) > slack, np.abs(offset) - slack, 0) * np.sign(offset)
    if np.abs(beyond).max() < 1e-3:
        return set()
    x, y = beyond / math.sqrt((offset**2).sum())
    signs = [(x < -0.5, "left of"), (x > 0.5, "right of"), (y < -0.5, "above"), (y > 0.5, "below")]
    return {name for holds, name in signs if holds}


def test_relations_equal_an_independent_implementation() -> None:
    draw = np.random.default_rng(0)
    seen: Counter[str] = Counter()
    for _ in range(3000):
        corners = draw.integers(0, 60, size=(2, 2))
        sizes = draw.integers(1, 60, size=(2, 2))
        box, target = (
            tuple(float(value) for value in (*corner, *(corner + size)))
            for corner, size in zip(corners, sizes, strict=True)
        )
        found = relative_position(box, target)  # type: ignore[arg-type]
        assert found == expected_relations(box, target)  # type: ignore[arg-type]
        seen.update(found or {"none"})
        seen[f"{len(found)}"] += 1
    assert set(seen) == {*POSITIONS, "none", "0", "1", "2"}


def test_relations_of_plain_places() -> None:
    target = (40.0, 40.0, 60.0, 60.0)
    assert relative_position((0.0, 40.0, 20.0, 60.0), target) == {"left of"}
    assert relative_position((80.0, 45.0, 90.0, 55.0), target) == {"right of"}
    assert relative_position((40.0, 0.0, 60.0, 20.0), target) == {"above"}
    assert relative_position((80.0, 80.0, 99.0, 99.0), target) == {"right of", "below"}
    assert relative_position((42.0, 42.0, 62.0, 62.0), target) == set()
    assert relative_position(target, target) == set()


def detection(name: str, score: float, left: float = 0.0) -> Detection:
    return Detection(name, score, (left, 0.0, left + 1, 1.0), torch.ones(1, 1, dtype=torch.bool))


def test_the_sixteen_most_confident_objects_of_a_class_are_kept() -> None:
    draw = np.random.default_rng(1)
    scores = draw.permutation(np.linspace(0.31, 0.99, 40)).tolist()
    kept = keep_objects([*(detection("cup", score) for score in scores), detection("tie", 0.4)])
    assert [one.score for one in kept["cup"]] == sorted(scores, reverse=True)[:16]
    assert len(kept["tie"]) == 1
    same = keep_objects([detection("cup", 0.5), detection("cup", 0.5)])
    assert len(same["cup"]) == 2  # objects that overlap are all kept


ONE_BUS = Requirement("single_object", (Clause("bus", 1),))
TWO_CUPS = Requirement("counting", (Clause("cup", 2),), (Clause("cup", 3),))
RED_BUS_GREEN_CUP = Requirement("color_attr", (Clause("bus", 1, "red"), Clause("cup", 1, "green")))
CUP_LEFT_OF_BUS = Requirement("position", (Clause("bus", 1), Clause("cup", 1, None, ("left of", 0))))
LEFT, RIGHT = (0.0, 40.0, 10.0, 50.0), (80.0, 40.0, 90.0, 50.0)


@pytest.mark.parametrize(
    ("requirement", "boxes", "colors", "reasons"),
    [
        (ONE_BUS, {"bus": [LEFT, RIGHT]}, [None], []),
        (ONE_BUS, {"cup": [LEFT]}, [None], ["expected bus>=1, found 0"]),
        (TWO_CUPS, {"cup": [LEFT, RIGHT]}, [None], []),
        (TWO_CUPS, {"cup": [LEFT]}, [None], ["expected cup>=2, found 1"]),
        (TWO_CUPS, {"cup": [LEFT] * 4}, [None], ["expected cup<3, found 4"]),
        (RED_BUS_GREEN_CUP, {"bus": [LEFT], "cup": [LEFT]}, [["red"], ["green"]], []),
        (
            RED_BUS_GREEN_CUP,
            {"bus": [LEFT], "cup": [LEFT]},
            [["pink"], ["green"]],
            ["expected red bus>=1, found 1 pink"],
        ),
        (CUP_LEFT_OF_BUS, {"bus": [RIGHT], "cup": [LEFT]}, [None, None], []),
        (
            CUP_LEFT_OF_BUS,
            {"bus": [LEFT], "cup": [RIGHT]},
            [None, None],
            ["expected cup left of target, found right of target"],
        ),
        # The most confident cup decides, though another one would be in its place.
        (
            CUP_LEFT_OF_BUS,
            {"bus": [RIGHT], "cup": [RIGHT, LEFT]},
            [None, None],
            ["expected cup left of target, found no side of target"],
        ),
        (
            CUP_LEFT_OF_BUS,
            {"cup": [LEFT]},
            [None, None],
            ["expected bus>=1, found 0", "no target for cup to be left of"],
        ),
    ],
)
def test_verdicts(
    requirement: Requirement, boxes: dict[str, list[Box]], colors: list[Any], reasons: list[str]
) -> None:
    assert judge(requirement, boxes, colors) == (not reasons, reasons)


def test_colours_of_several_objects_must_all_be_right() -> None:
    requirement = Requirement("colors", (Clause("cup", 3, "red"),))
    boxes = {"cup": [LEFT] * 5}
    assert judge(requirement, boxes, [["red", "red", "red"]]).correct
    wrong = judge(requirement, boxes, [["red", "blue", "red"]])
    assert wrong.reasons == ["expected red cup>=3, found 2 red, 1 blue"]


def test_the_published_list_is_known_by_its_content(tmp_path: Path) -> None:
    entries = published()
    counts = {"single_object": 80, "two_object": 99, "counting": 80, "colors": 94}
    assert Counter(one["tag"] for one in entries) == {**counts, "position": 100, "color_attr": 100}
    assert [entries[row]["prompt"] for row in (0, 457, 530)] == [
        "a photo of a bench",
        "a photo of a pink oven and a green motorcycle",
        "a photo of a purple suitcase and an orange pizza",
    ]
    prompts, requirements = read_requirements(str(write(tmp_path / "all.jsonl", entries)))
    assert (prompts.name, prompts.departures, len(requirements)) == ("geneval", (), 553)
    assert prompts.categories.keys() == Counter(one["tag"] for one in entries).keys()
    entries[3]["include"][0]["count"] = 2
    changed, _ = read_requirements(str(write(tmp_path / "changed.jsonl", entries)))
    assert changed.departures == ("other prompts than the published",)
    short, _ = read_requirements(str(write(tmp_path / "short.jsonl", entries[:9])))
    assert short.departures == ("9 prompts, not 553",)


def test_requirements_are_read(tmp_path: Path) -> None:
    counted = {**entry("counting", "two cups", {"class": "cup", "count": 2})}
    counted["exclude"] = [{"class": "cup", "count": 3}]
    placed = entry(
        "position",
        "a cup left of a bus",
        {"class": "bus", "count": 1},
        {"class": "cup", "count": 1, "position": ["left of", 0]},
    )
    _, found = read_requirements(str(write(tmp_path / "p.jsonl", [counted, placed])))
    assert found == [TWO_CUPS, CUP_LEFT_OF_BUS]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tag": "colour"}, r"row 1 has the tag 'colour'; did you mean 'colors'\?"),
        ({"include": []}, r"row 1 has \[\] for include; expected a list of objects"),
        ({"exclude": "cup"}, "row 1 has 'cup' for exclude; expected a list of objects"),
        ({"include": [{"count": 1}]}, r"include 0 is \{'count': 1\}; expected a class and a count"),
        ({"include": [{"class": "mouse", "count": 1}]}, "'mouse' is no class of GenEval"),
        ({"include": [{"class": "cup", "count": 0}]}, "include 0 has 0 for a count; expected at least 1"),
        ({"include": [{"class": "cup", "count": 1, "color": "gren"}]}, "'gren' is no colour of GenEval"),
        (
            {"include": [{"class": "cup", "count": 1, "position": ["left of", 0]}]},
            r"has \['left of', 0\] for a position; expected one of left of, right of, above, below, and",
        ),
    ],
)
def test_broken_requirements_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    broken = {**entry("colors", "a red cup", {"class": "cup", "count": 1, "color": "red"}), **change}
    with pytest.raises(UserError, match=message):
        read_requirements(str(write(tmp_path / "p.jsonl", [broken])))


def test_other_lists_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "a cup"}))
    with pytest.raises(UserError, match="is not of the format 'geneval'; expected GenEval's JSONL of tag"):
        read_requirements(str(tmp_path / "p.jsonl"))
