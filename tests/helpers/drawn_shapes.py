"""Drawn rectangles, and stand-ins for GenEval's detector and for its names of colours that see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor

from distill.eval.composition.geneval.rules import Detection

PALETTE = {
    "red": (220, 20, 20),
    "green": (20, 160, 20),
    "blue": (20, 20, 220),
    "yellow": (230, 220, 20),
    "black": (0, 0, 0),
}
SIZES = {"bus": (24, 10), "bottle": (8, 24), "clock": (14, 14)}
"""Width and height of the rectangle that stands for a class."""


def draw(*shapes: tuple[str, str, int, int], size: int = 96) -> Image.Image:
    """Draw shapes, each its class, its colour and its left upper corner, on white."""
    image = Image.new("RGB", (size, size), "white")
    pen = ImageDraw.Draw(image)
    for name, color, left, top in shapes:
        width, height = SIZES[name]
        pen.rectangle((left, top, left + width - 1, top + height - 1), PALETTE[color])
    return image


class ShapeDetector:
    """Finds drawn shapes by their proportions; counts its calls. All have one score."""

    def __init__(self, score: float = 0.95) -> None:
        self.score = score
        self.calls = 0
        self.identity: dict[str, object] = {"stand-in": "shapes", "score": score}

    def detect(self, image: Tensor, threshold: float) -> list[Detection]:
        self.calls += 1
        drawn = (image < 250).any(0).numpy()
        labels, _ = ndimage.label(drawn)
        found = []
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
            size = (columns.stop - columns.start, rows.stop - rows.start)
            name = next((one for one, expected in SIZES.items() if expected == size), "kite")
            box = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
            found.append(Detection(name, self.score, box, torch.from_numpy(labels == number)))
        return [one for one in found if one.score > threshold]


class PaletteColors:
    """Names the colour of the palette that is nearest to the mean colour of an object."""

    def __init__(self) -> None:
        self.identity: dict[str, object] = {"stand-in": "palette"}

    def name_colors(self, image: Tensor, objects: Sequence[Detection]) -> list[str]:
        names = []
        for one in objects:
            mean = image[:, one.mask].float().mean(1).numpy()
            names.append(min(PALETTE, key=lambda name: float(np.abs(mean - PALETTE[name]).sum())))
        return names
