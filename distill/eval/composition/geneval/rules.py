"""GenEval's rules: which detected objects count, and when an image is what its prompt asks for.

The constants and the order of the checks are those of `evaluation/evaluate_images.py` of the authors'
repository (djghosh13/geneval): colour and position are those of the most confident objects of a class only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Bool, UInt8
from torch import Tensor

from distill.eval.composition.geneval.requirements import COLORS, Requirement

THRESHOLD = 0.3
"""An object counts if the detector's score is above it."""
COUNTING_THRESHOLD = 0.9
"""The same for prompts of the task `counting`."""
MAX_OBJECTS = 16
"""Objects of a class that are kept, the most confident ones. None is dropped because it overlaps another:
GenEval's limit of the overlap is 1."""
POSITION_THRESHOLD = 0.1
"""Share of the two objects' sizes that the distance of their centres must exceed."""
MIN_OFFSET = 1e-3
"""Pixels below which two centres coincide."""
MIN_DIRECTION = 0.5
"""Least component of the direction along an axis that makes a relation."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels; the last two are exclusive."""


class Detection(NamedTuple):
    """An object that was found: its class, the detector's score, its box, and the pixels that it covers."""

    name: str
    score: float
    box: Box
    mask: Bool[Tensor, "h w"]


@runtime_checkable
class Detector(Protocol):
    """Finds objects of GenEval's classes."""

    @property
    def identity(self) -> dict[str, object]:
        """Everything that decides what is found, as plain data."""
        ...

    def detect(self, image: UInt8[Tensor, "3 h w"], threshold: float) -> list[Detection]:
        """Return the objects whose score is above `threshold`, in any order."""
        ...


@runtime_checkable
class ColorNamer(Protocol):
    """Names the colours of objects."""

    @property
    def identity(self) -> dict[str, object]:
        """Everything that decides the names, as plain data."""
        ...

    def name_colors(self, image: UInt8[Tensor, "3 h w"], objects: Sequence[Detection]) -> list[str]:
        """Return the name of each object's colour, one of `COLORS`. The objects are of one class."""
        ...


class Verdict(NamedTuple):
    """Whether an image is what its prompt asks for, and the reasons if it is not."""

    correct: bool
    reasons: list[str]


def threshold_of(requirement: Requirement) -> float:
    return COUNTING_THRESHOLD if requirement.tag == "counting" else THRESHOLD


def keep_objects(found: Sequence[Detection]) -> dict[str, list[Detection]]:
    """Return the objects that count, by class, the most confident first."""
    kept: dict[str, list[Detection]] = {}
    for one in sorted(found, key=lambda one: -one.score):
        objects = kept.setdefault(one.name, [])
        if len(objects) < MAX_OBJECTS:
            objects.append(one)
    return kept


def judge(
    requirement: Requirement, boxes: Mapping[str, Sequence[Box]], colors: Sequence[Sequence[str] | None]
) -> Verdict:
    """Judge an image by the boxes of its objects, the most confident first, and by their colours.

    `colors` has the colours of each clause's first `count` objects, or None if the clause has no colour or
    fewer objects were found.
    """
    reasons: list[str] = []
    matched: list[Sequence[Box] | None] = []
    for clause, named in zip(requirement.include, colors, strict=True):
        found = boxes.get(clause.name, ())[: clause.count]
        reason = ""
        if len(found) < clause.count:
            reason = f"expected {clause.name}>={clause.count}, found {len(found)}"
        elif clause.color is not None:
            assert named is not None
            reason = _misses_color(clause.name, clause.count, clause.color, named)
        if not reason and clause.position is not None:
            reason = _misses_position(clause.name, clause.position, found, matched)
        if reason:
            reasons.append(reason)
        matched.append(None if reason else found)
    for clause in requirement.exclude:
        number = len(boxes.get(clause.name, ()))
        if number >= clause.count:
            reasons.append(f"expected {clause.name}<{clause.count}, found {number}")
    return Verdict(not reasons, reasons)


def _misses_color(name: str, count: int, color: str, named: Sequence[str]) -> str:
    """Return the reason why too few objects have the colour, or nothing."""
    if named.count(color) >= count:
        return ""
    found = ", ".join(f"{named.count(one)} {one}" for one in COLORS if one in named)
    return f"expected {color} {name}>={count}, found {found}"


def _misses_position(
    name: str, position: tuple[str, int], found: Sequence[Box], matched: Sequence[Sequence[Box] | None]
) -> str:
    """Return the reason why an object is not where it is expected, or nothing."""
    expected, number = position
    targets = matched[number]
    if targets is None:
        return f"no target for {name} to be {expected}"
    for box in found:
        for target in targets:
            relations = relative_position(box, target)
            if expected not in relations:
                seen = " and ".join(sorted(relations)) or "no side of"
                return f"expected {name} {expected} target, found {seen} target"
    return ""


def relative_position(box: Box, target: Box) -> set[str]:
    """Return where a box is, seen from another: none, one or two of left of, right of, above and below."""
    offsets = []
    beyond = []
    for axis in (0, 1):
        offset = (box[axis] + box[axis + 2] - target[axis] - target[axis + 2]) / 2
        sizes = abs(box[axis + 2] - box[axis]) + abs(target[axis + 2] - target[axis])
        offsets.append(offset)
        beyond.append(math.copysign(max(abs(offset) - POSITION_THRESHOLD * sizes, 0.0), offset))
    if all(abs(value) < MIN_OFFSET for value in beyond):
        return set()
    across, down = (value / math.hypot(*offsets) for value in beyond)
    relations = {
        "left of": across < -MIN_DIRECTION,
        "right of": across > MIN_DIRECTION,
        "above": down < -MIN_DIRECTION,
        "below": down > MIN_DIRECTION,
    }
    return {name for name, holds in relations.items() if holds}
