"""Contact sheets: pictures of a score's best, median and worst prompts, which show what a mean hides."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from distill.data.images import to_pil
from distill.eval.preference.images import PromptedImages
from distill.eval.preference.result_types import Results, ScoreResult
from distill.eval.preference.results import by_prompt
from distill.eval.preference.table import label
from distill.storage.files import new_file

SIDE = 168
"""Pixels of an image's longer side."""
GAP = 14
"""Pixels between tiles."""
PAIR_GAP = 4
"""Pixels between the images of one tile."""
LINE = 17
"""Pixels from one line of text to the next."""
CAPTION_LINES = 4
"""Lines below an image: the score, and as much of the prompt as fits."""
INK = "#1d232b"
GREY = "#5c6673"
PAGE = "#ffffff"
EMPTY = "#f1f3f6"


@dataclasses.dataclass(frozen=True)
class Tile:
    """One image, or one of each subject, with its score and its prompt."""

    images: Sequence[UInt8[Tensor, "c h w"]]
    score: str
    prompt: str


def save_sheets(out: Path, results: Results, sides: Sequence[PromptedImages]) -> None:
    """Draw a sheet for each score, `NAME-SCORE.png` beside `NAME.json`; record its name in the results."""
    for name, score in results["scores"].items():
        file = out.with_name(f"{out.stem}-{name}.png")
        subjects = " (left) and ".join(side.origin for side in sides)
        groups = _groups(score, results["prompts"]["count"], sides)
        sheet = draw_sheet(f"{score['title']}: {subjects}, {label(results)}", groups)
        with new_file(file) as partial:
            sheet.save(partial, "png")
        score["sheet"] = file.name


def _groups(score: ScoreResult, prompts: int, sides: Sequence[PromptedImages]) -> dict[str, list[Tile]]:
    """Return the tiles of a score's best, median and worst prompts."""
    values = [score["values"]]
    if "against" in score:
        values.append(score["against"]["values"])
    means = [by_prompt(side, prompts).mean(1) for side in values]
    chosen = choose(means[0], 4 if len(sides) == 1 else 3)
    return {group: [_tile(number, means, sides) for number in numbers] for group, numbers in chosen.items()}


def _tile(number: int, means: Sequence[Float64[Tensor, " prompts"]], sides: Sequence[PromptedImages]) -> Tile:
    """Return the tile of a prompt: its first image of each subject."""
    return Tile(
        [images.pixels(number) for images in sides],
        " / ".join(f"{mean[number]:.4g}" for mean in means),
        sides[0].prompt(number),
    )


def choose(means: Float64[Tensor, " prompts"], count: int) -> dict[str, list[int]]:
    """Choose the best, median and worst prompts, at most `count` of each, best first, none twice."""
    order = means.argsort(descending=True, stable=True).tolist()
    if len(order) < 3:
        return {name: [number] for name, number in zip(("Best", "Worst"), order, strict=False)}
    count = min(count, len(order) // 3)
    middle = (len(order) - count) // 2
    return {"Best": order[:count], "Median": order[middle : middle + count], "Worst": order[-count:]}


def draw_sheet(title: str, groups: Mapping[str, Sequence[Tile]]) -> Image.Image:
    """Draw a row of tiles for each group, under the group's name, and the title above all."""
    at_once = max(len(tile.images) for tiles in groups.values() for tile in tiles)
    columns = max(3, *(len(tiles) for tiles in groups.values()))
    width = at_once * SIDE + (at_once - 1) * PAIR_GAP
    height = SIDE + CAPTION_LINES * LINE + 6
    row = height + 2 * LINE + GAP
    bold = _font("DejaVuSans-Bold.ttf")
    plain = _font("DejaVuSans.ttf")
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
    """Draw a tile whose upper left corner is `corner`, with text up to `width` pixels wide."""
    x, y = corner
    for number, image in enumerate(tile.images):
        left = x + number * (SIDE + PAIR_GAP)
        small = shown(image)
        pen.rectangle((left, y, left + SIDE - 1, y + SIDE - 1), EMPTY)
        sheet.paste(small, (left + (SIDE - small.width) // 2, y + (SIDE - small.height) // 2))
    bold, plain = fonts
    pen.text((x, y + SIDE + 4), tile.score, INK, bold)
    for number, text in enumerate(_wrapped(tile.prompt, plain, width, CAPTION_LINES - 1), start=1):
        pen.text((x, y + SIDE + 4 + number * LINE), text, GREY, plain)


def shown(image: UInt8[Tensor, "c h w"]) -> Image.Image:
    """Resize an image to at most `SIDE` pixels each way.

    Larger images are smoothed; smaller ones are enlarged by a whole factor, without smoothing.
    """
    picture = to_pil(image).convert("RGB")
    factor = SIDE // max(picture.size)
    if factor >= 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return picture


def _font(file: str) -> ImageFont.FreeTypeFont:
    """Open one of Matplotlib's fonts: they are always installed and cover most alphabets."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / file), 12)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Break a text into at most `most` lines of at most `width` pixels, with an ellipsis where it is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    is_cut = len(lines) > most
    lines = lines[:most]
    fitted = [_fitted(line, font, width, False) for line in lines[:-1]]
    return [*fitted, _fitted(lines[-1], font, width, is_cut)]


def _fitted(line: str, font: ImageFont.FreeTypeFont, width: int, is_cut: bool) -> str:
    """Shorten a line to `width` pixels; end it with an ellipsis if it was shortened or `is_cut`."""
    while line and font.getlength(line + "…" * is_cut) > width:
        line = line[:-1]
        is_cut = True
    return line + "…" * is_cut
