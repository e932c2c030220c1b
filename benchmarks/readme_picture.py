"""The picture in the README: `python benchmarks/readme_picture.py RUN` puts the grids of an evaluated run side by side as docs/digits.png."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
GAP = 24


def main(run_dir: Path) -> None:
    grids = [Image.open(run_dir / "eval" / f"{name}.png") for name in ("real", "teacher", "student")]
    width = sum(grid.width for grid in grids) + GAP * (len(grids) - 1)
    canvas = Image.new("L", (width, max(grid.height for grid in grids)), 255)
    left = 0
    for grid in grids:
        canvas.paste(grid, (left, 0))
        left += grid.width + GAP
    canvas.save(ROOT / "docs" / "digits.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
