"""Captioned sources as training reads them: whole batches of images, and captions with parts left out."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor

from distill.config.errors import UserError
from distill.data import Captioned
from distill.types import DataSource

PART_DROPOUT = 0.3
"""Share of the captions of which only some of the parts between commas are read."""


class CaptionedSource(DataSource, Captioned, Protocol):
    """A `DataSource` with captions."""


def check_captioned(data: DataSource) -> CaptionedSource:
    """Check that a source has captions and square pictures in colour."""
    channels, height, width = data.image_shape
    if len(data) < 2:
        raise UserError(f"data: {len(data)} images; expected at least 2, to tell one from the other")
    if not isinstance(data, Captioned) or not len(data.captions.texts):
        raise UserError(
            "data: images without captions; expected captioned ones, "
            "such as '{name: emoji, condition: captions}'"
        )
    if height != width or channels != 3:
        raise UserError(f"data: images of {channels}x{height}x{width}; expected square ones of 3 channels")
    return cast(CaptionedSource, data)


def read_images(data: DataSource, rows: Sequence[int]) -> Float[Tensor, "b c h w"]:
    """Read images (b, c, h, w)."""
    return torch.stack([data[row][0] for row in rows])


def draw_captions(
    of_images: Sequence[Sequence[str]], chooser: random.Random, word_dropout: float
) -> list[str]:
    """Draw a caption of each image, and leave out some of its parts, and a share `word_dropout` of its words.

    What is left is still true of the image. Networks so learn what single parts and words mean, of which
    captions of other images are made.
    """
    return [_shortened(chooser.choice(captions), chooser, word_dropout) for captions in of_images]


def _shortened(caption: str, chooser: random.Random, word_dropout: float) -> str:
    parts = caption.split(", ")
    if len(parts) > 1 and chooser.random() < PART_DROPOUT:
        kept = sorted(chooser.sample(range(len(parts)), chooser.randint(1, len(parts) - 1)))
        parts = [parts[position] for position in kept]
    words = [[word for word in part.split() if chooser.random() >= word_dropout] for part in parts]
    shortened = ", ".join(" ".join(part) for part in words if part)
    return shortened or caption


def batches(count: int, size: int) -> Iterator[list[int]]:
    """Yield the rows of batches without end: every row once in each random order."""
    order: list[int] = []
    while True:
        while len(order) < size:
            order += torch.randperm(count).tolist()
        yield order[:size]
        order = order[size:]
