"""Makes the emoji data set: pictures of three styles with names, categories and a fixed split.

    python benchmarks/emoji_data.py --resolution 64 --out data/emoji-64

The pictures come from three packages of the npm registry, which `npm pack` downloads; needs npm. A folder
holds one lossless sheet of pictures for each style and `names.tsv`, a line for each tile. The folder of 32x32
pictures in distill/data/emoji was made by this script; `data: {name: emoji, path: ...}` reads another one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.project import argument_parser
from distill.data.sources.emoji import NAMES, SHEET_COLUMNS, EmojiName, write_names


@dataclasses.dataclass(frozen=True)
class Package:
    """An npm package with pictures: name and version, and where its pictures are."""

    name: str
    pictures: str
    ending: str


PACKAGES = {
    "noto": Package("emoji-datasource-google@16.0.0", "img/google/64", ".png"),
    "twemoji": Package("emoji-datasource-twitter@16.0.0", "img/twitter/64", ".png"),
    "3d": Package("@lobehub/fluent-emoji-3d@1.1.0", "assets", ".webp"),
}
CATEGORIES = {
    "Smileys & Emotion": "smileys",
    "People & Body": "people",
    "Animals & Nature": "animals",
    "Food & Drink": "food",
    "Travel & Places": "travel",
    "Activities": "activities",
    "Objects": "objects",
    "Symbols": "symbols",
    "Flags": "flags",
}
"""Names of the packages' categories here; the one that is missing, Component, holds skin tones."""
SAME_PICTURE = {"1F468", "1F469", "1F9D1", "200D", "2640", "2642", "FE0F"}
"""Codes of man, woman, person, their signs, and joints: names that differ only in these are kept together."""
HELD_OUT_SHARE = 10
"""One group of names out of so many is held out."""


def unpack(package: Package, folder: Path) -> Path:
    """Download a package into a folder by `npm pack`, and return the folder of its content."""
    folder.mkdir()
    packed = subprocess.run(
        ["npm", "pack", package.name, "--json"], cwd=folder, check=True, capture_output=True, text=True
    )
    with tarfile.open(folder / json.loads(packed.stdout)[0]["filename"]) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


def is_held_out(code: str) -> bool:
    """Decide by a hash of its code points whether a name is held out.

    Names of a man, a woman and a person who do the same go to the same part.
    """
    codes = code.split("-")
    key = "-".join(part for part in codes if part not in SAME_PICTURE) or code
    return int(hashlib.sha256(key.encode()).hexdigest(), 16) % HELD_OUT_SHARE == 0


def other_names(name: str, short_names: Sequence[str]) -> tuple[str, ...]:
    """Return the short names that are words and differ from the name."""
    words = [short.replace("_", " ").replace("-", " ") for short in short_names]
    return tuple(short for short in words if short != name and short.replace(" ", "").isalpha())


def read_names(listing: Path, folders: Sequence[Path], endings: Sequence[str]) -> list[EmojiName]:
    """Return the names of which every package has a picture, in the order of Unicode's own listing."""
    entries = sorted(json.loads(listing.read_text(encoding="utf-8")), key=lambda entry: entry["sort_order"])
    names = []
    for entry in entries:
        stem = Path(entry["image"]).stem
        has_all = all(
            (folder / (stem + ending)).is_file() for folder, ending in zip(folders, endings, strict=True)
        )
        if entry["category"] not in CATEGORIES or not has_all:
            continue
        name = entry["name"].lower()
        names.append(
            EmojiName(
                code=stem,
                name=name,
                other_names=other_names(name, entry["short_names"]),
                category=CATEGORIES[entry["category"]],
                subcategory=entry["subcategory"].replace("-", " "),
                split="held_out" if is_held_out(entry["unified"]) else "train",
            )
        )
    return names


def read_picture(path: Path, resolution: int) -> Image.Image:
    """Read a picture on white, scaled down by averaging whole squares of pixels."""
    picture = Image.open(path).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    flat = Image.alpha_composite(white, picture).convert("RGB")
    return flat.reduce(flat.width // resolution)


def draw_sheet(pictures: Sequence[Image.Image], resolution: int) -> Image.Image:
    """Put pictures side by side, row by row."""
    rows = -(-len(pictures) // SHEET_COLUMNS)
    sheet = Image.new("RGB", (SHEET_COLUMNS * resolution, rows * resolution), "white")
    for index, picture in enumerate(pictures):
        row, column = divmod(index, SHEET_COLUMNS)
        sheet.paste(picture, (column * resolution, row * resolution))
    return sheet


def make(resolution: int, out: Path) -> None:
    """Download the packages and write the data set into a folder."""
    with tempfile.TemporaryDirectory() as temporary:
        packages = {style: unpack(package, Path(temporary) / style) for style, package in PACKAGES.items()}
        folders = {style: packages[style] / package.pictures for style, package in PACKAGES.items()}
        endings = [package.ending for package in PACKAGES.values()]
        names = read_names(packages["noto"] / "emoji.json", list(folders.values()), endings)
        out.mkdir(parents=True, exist_ok=True)
        for style, package in PACKAGES.items():
            paths = [folders[style] / (name.code + package.ending) for name in names]
            sheet = draw_sheet([read_picture(path, resolution) for path in paths], resolution)
            sheet.save(out / f"{style}.webp", lossless=True, method=6, quality=100)
        write_names(names, out / NAMES)
    print(f"{out}: {len(names)} names in {len(PACKAGES)} styles, {resolution}x{resolution}")


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--resolution", type=int, choices=(32, 64), default=32, help="pixels (default: 32)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    make(options.resolution, options.out)


if __name__ == "__main__":
    main(sys.argv[1:])
