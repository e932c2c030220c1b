"""What the README shows of `make demo`: `python benchmarks/keep_demo.py [RUN]` after it.

Puts the grids of real images, teacher and student side by side as docs/digits.png, and the summary, with the machine, the commit and the
versions, into benchmarks/results/demo.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from distill.storage.files import read_json, write_json  # noqa: E402

GAP = 24


def picture(run_dir: Path) -> Image.Image:
    """The three grids of an evaluated run, side by side."""
    grids = [Image.open(run_dir / "eval" / f"{name}.png") for name in ("real", "teacher", "student")]
    canvas = Image.new(
        "L", (sum(grid.width for grid in grids) + GAP * (len(grids) - 1), grids[0].height), 255
    )
    left = 0
    for grid in grids:
        canvas.paste(grid, (left, 0))
        left += grid.width + GAP
    return canvas


def main(run_dir: Path) -> None:
    picture(run_dir).save(ROOT / "docs" / "digits.png", optimize=True)
    meta = read_json(run_dir / "meta.json")
    conditions = {key: meta[key] for key in ("machine", "commit", "versions")}
    write_json(
        ROOT / "benchmarks" / "results" / "demo.json",
        {"conditions": conditions, **read_json(run_dir / "summary.json")},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "demo")
