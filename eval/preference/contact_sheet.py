"""The best, the median and the worst prompts of a score, as a picture: what a mean does not tell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from distill.data.images import to_pil
from distill.storage.files import new_file
from eval.preference.images import PromptedImages
from eval.preference.results import by_prompt
from eval.preference.table import label

SIDE, GAP, LINE = 168, 14, 17
"""Pixels: of an image's longer side, between tiles, from one line of text to the next."""
CAPTION_LINES = 4
"""Of a tile: the score, and what of the prompt has room."""
INK, GREY, PAGE, EMPTY = "#1d232b", "#5c6673", "#ffffff", "#f1f3f6"


@dataclasses.dataclass(frozen=True)
class Tile:
    """An image, or one and that of a second subject; what they scored; and their prompt."""

    images: Sequence[UInt8[Tensor, "c h w"]]
    score: str
    prompt: str


def save_sheets(out: Path, results: dict[str, Any], sides: Sequence[PromptedImages]) -> None:
    """Draw a sheet for each score, `NAME-SCORE.png` beside `NAME.json`, and note its name in the results."""
    count = 4 if len(sides) == 1 else 3
    for name, score in results["scores"].items():
        means = [
            by_prompt(side["values"], results["prompts"]["count"]).mean(1)
            for side in (score, score.get("against"))
            if side
        ]
        groups = {
            group: [_tile(number, means, sides) for number in numbers]
            for group, numbers in choose(means[0], count).items()
        }
        file = out.with_name(f"{out.stem}-{name}.png")
        with new_file(file) as partial:
            draw_sheet(
                f"{score['title']}: {' (left) and '.join(side.origin for side in sides)}, {label(results)}",
                groups,
            ).save(partial, "png")
        score["sheet"] = file.name


def _tile(number: int, means: Sequence[Float64[Tensor, " prompts"]], sides: Sequence[PromptedImages]) -> Tile:
    """The first image of a prompt, of each subject."""
    return Tile(
        [images.pixels(number) for images in sides],
        " / ".join(f"{mean[number]:.4g}" for mean in means),
        sides[0].prompt(number),
    )


def choose(means: Float64[Tensor, " prompts"], count: int) -> dict[str, list[int]]:
    """The numbers of the prompts that score best, about the median, and worst, at most `count` of each, the best first; none twice."""
    order = means.argsort(descending=True, stable=True).tolist()
    if len(order) < 3:
        return {name: [number] for name, number in zip(("Best", "Worst"), order, strict=False)}
    count = min(count, len(order) // 3)
    middle = (len(order) - count) // 2
    return {"Best": order[:count], "Median": order[middle : middle + count], "Worst": order[-count:]}


def draw_sheet(title: str, groups: Mapping[str, Sequence[Tile]]) -> Image.Image:
    """A row of tiles for each group, under its name, and the title above all."""
    at_once = max(len(tile.images) for tiles in groups.values() for tile in tiles)
    columns, width = max(3, *(len(tiles) for tiles in groups.values())), at_once * SIDE + (at_once - 1) * 4
    height = SIDE + CAPTION_LINES * LINE + 6
    row = height + 2 * LINE + GAP
    bold, plain = _font("DejaVuSans-Bold.ttf"), _font("DejaVuSans.ttf")
    heading = _wrapped(title, bold, columns * (width + GAP) - GAP, 3)
    top = GAP + len(heading) * LINE
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, top + len(groups) * row + GAP), PAGE)
    pen = ImageDraw.Draw(sheet)
    for number, text in enumerate(heading):
        pen.text((GAP, GAP // 2 + number * LINE), text, INK, bold)
    for place, (name, tiles) in enumerate(groups.items()):
        y = top + place * row + GAP
        pen.text((GAP, y), name, INK, bold)
        for column, tile in enumerate(tiles):
            _draw_tile(sheet, pen, tile, (GAP + column * (width + GAP), y + LINE + 6), width, (bold, plain))
    return sheet


def _draw_tile(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    tile: Tile,
    corner: tuple[int, int],
    width: int,
    fonts: tuple[ImageFont.FreeTypeFont, ...],
) -> None:
    x, y = corner
    for number, image in enumerate(tile.images):
        left = x + number * (SIDE + 4)
        small = shown(image)
        pen.rectangle((left, y, left + SIDE - 1, y + SIDE - 1), EMPTY)
        sheet.paste(small, (left + (SIDE - small.width) // 2, y + (SIDE - small.height) // 2))
    bold, plain = fonts
    pen.text((x, y + SIDE + 4), tile.score, INK, bold)
    for number, text in enumerate(_wrapped(tile.prompt, plain, width, CAPTION_LINES - 1), start=1):
        pen.text((x, y + SIDE + 4 + number * LINE), text, GREY, plain)


def shown(image: UInt8[Tensor, "c h w"]) -> Image.Image:
    """An image of at most `SIDE` pixels each way: photographs smoothed, images smaller than that enlarged by a whole factor without."""
    picture = to_pil(image).convert("RGB")
    factor = SIDE // max(picture.size)
    if factor >= 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


def _font(file: str) -> ImageFont.FreeTypeFont:
    """Matplotlib's own, which is there wherever a report is written and has most of the world's letters."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / file), 12)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """At most so many lines of a text, each of at most this width, an ellipsis where there is more."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    more, lines = len(lines) > most, lines[:most]
    for number, line in enumerate(lines):
        cut = more and number == most - 1
        while font.getlength(line + "…" * cut) > width and line:
            line, cut = line[:-1], True
        lines[number] = line + "…" * cut
    return lines
