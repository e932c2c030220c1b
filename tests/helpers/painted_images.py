"""Images of one grey level each, their prompts and their scores, for tests of `eval.preference`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from distill.config.errors import UserError
from distill.data.images import from_bytes, to_bytes
from distill.eval.images.processes import Processes
from distill.eval.preference.images import PromptedImages, make_images
from distill.eval.preference.result_types import ScoreIdentity
from distill.eval.preference.scores import Scorer, Scores, score_images
from distill.eval.preference.subject_spec import SubjectSpec
from distill.eval.preference.subjects import ImageSource
from distill.eval.prompt_sets import PromptSet
from distill.eval.prompt_sets.formats import Prompt
from distill.publishing.samples import save_samples
from distill.types import Condition
from tests.helpers.small_rewards import Brightness

PROMPTS = PromptSet.whole(
    "mine", "mine.txt", [Prompt("a cat", "animals"), Prompt("a dog", "animals"), Prompt("a house", "places")]
)
ALONE = Processes.single()


class Painter:
    """Makes images of one grey level each, that of their row, and records the rows.

    It is interrupted at row `stop`, and the image of row `broken` is not finite.
    """

    def __init__(self, stop: int | None = None, broken: int | None = None) -> None:
        self.rows: list[int] = []
        self.stop = stop
        self.broken = broken

    def subject(self, batch_size: int = 2, **identity: str) -> ImageSource:
        return ImageSource("the painter", {"kind": "painter", **identity}, batch_size, self.read)

    def read(self, rows: Sequence[int]) -> list[Tensor | UserError]:
        if self.stop is not None and any(row >= self.stop for row in rows):
            raise KeyboardInterrupt
        self.rows += rows
        return [UserError(f"image {row} is not finite") if row == self.broken else paint(row) for row in rows]


def paint(row: int) -> Tensor:
    """Return the image of a row, which is brighter for later rows."""
    return torch.full((3, 8, 8), 10 * row, dtype=torch.uint8)


def painted(
    root: Path,
    painter: Painter,
    prompts: PromptSet = PROMPTS,
    count: int = 6,
    first_seed: int = 5,
    **identity: str,
) -> PromptedImages:
    """Let a painter make `count` images; `identity` makes it another subject."""
    seeds = range(first_seed, first_seed + count)
    return make_images(painter.subject(**identity), prompts, seeds, root, ALONE, False)


def score_with(images: PromptedImages, reward: Brightness) -> Scores:
    """Score images by their brightness, in this process alone."""
    identity: ScoreIdentity = {
        "score": "brightness",
        "weights_sha256": f"bias {reward.bias.item()}",
        "settings": {},
        "reads": {},
    }
    return score_images(images, Scorer("brightness", reward, identity), ALONE, False)


def expected_score(row: int, prompt: str, bias: float = 0.0) -> float:
    """Compute the brightness of a painted image with a prompt by hand."""
    return 10 * row / 127.5 - 1 + len(prompt) / 100 + bias


def save_sampled(folder: Path, prompts: Sequence[str], count: int, first_seed: int = 0) -> str:
    """Save `count` painted images as `sample.py` does; return the folder."""
    images = from_bytes(torch.stack([paint(row) for row in range(count)]))
    assert torch.equal(to_bytes(images)[1], paint(1))
    save_samples(images, range(first_seed, first_seed + count), Condition(), folder, {"run": "x"}, prompts)
    return str(folder)


def save_numbered(folder: Path, names: Sequence[str], ending: str = "png") -> SubjectSpec:
    """Save painted images under these names, as another tool may do."""
    for place, name in enumerate(names):
        path = folder / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(paint(place).permute(1, 2, 0).numpy()).save(path)
    return SubjectSpec("images", str(folder), "--images")


def numbered_prompts(count: int) -> PromptSet:
    """Return the prompts `prompt 0`, `prompt 1`, ..."""
    return PromptSet.whole("mine", "mine.txt", [Prompt(f"prompt {number}") for number in range(count)])
