"""Keep the results of `make demo` for the README: `python benchmarks/keep_demo.py [RUN]`.

Puts the grids of real, teacher and student images side by side into docs/digits.png. Writes the run's
summary, with machine, commit and versions, to benchmarks/results/demo.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.project import RESULTS, ROOT, RUNS, argument_parser
from distill.storage.files import read_json, write_json

GAP = 24
"""Pixels between two grids."""


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "run", metavar="RUN", type=Path, nargs="?", default=RUNS / "demo", help="run (default: runs/demo)"
    )
    run: Path = parser.parse_args(arguments).run
    join_grids(run).save(ROOT / "docs" / "digits.png", optimize=True)
    meta = read_json(run / "meta.json")
    conditions = {key: meta[key] for key in ("machine", "commit", "versions")}
    write_json(RESULTS / "demo.json", {"conditions": conditions, **read_json(run / "summary.json")})


def join_grids(run: Path) -> Image.Image:
    """Return the three grids of an evaluated run, side by side."""
    grids = [Image.open(run / "eval" / f"{name}.png") for name in ("real", "teacher", "student")]
    width = sum(grid.width for grid in grids) + GAP * (len(grids) - 1)
    canvas = Image.new("L", (width, grids[0].height), 255)
    left = 0
    for grid in grids:
        canvas.paste(grid, (left, 0))
        left += grid.width + GAP
    return canvas


if __name__ == "__main__":
    main(sys.argv[1:])
