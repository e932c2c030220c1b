"""Recover known scenes by SDS, VSD, SIM, f-distill and Uni-Instruct: `python benchmarks/scenes.py`.

The teacher is the exact score of a mixture of three scenes seen from eight cameras; the student is six
particles. Each method is its preset in configs/3d, with three seeds. `python -m eval scene` compares every
particle with the true scenes, from cameras between those of training. Finished runs under runs/3d are not
repeated. Writes benchmarks/results/scenes.json, and the table and docs/scenes.png in docs/text_to_3d.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import project
from benchmarks.document import Block, markdown_table, mean_and_std
from benchmarks.project import ROOT, add_seeds_and_jobs, argument_parser, run_python
from distill import load_generator
from distill.data.images import to_bytes, to_pil
from distill.eval.scene.views import held_out_views
from distill.networks.scene.cameras import Cameras
from distill.networks.scene.renderer import Render
from distill.storage.files import read_json, write_json
from distill.storage.provenance import commit, machine
from distill.training.config import read_run

RUNS = project.RUNS / "3d"
RESULTS = project.RESULTS / "scenes.json"
BLOCK = Block(ROOT / "docs" / "text_to_3d.md", "known scenes")
PICTURE = ROOT / "docs" / "scenes.png"
METHODS = {
    "sds": "SDS",
    "vsd": "VSD",
    "sim": "SIM",
    "f_distill": "f-distill",
    "uni_instruct": "Uni-Instruct",
}
"""Presets `configs/3d/lab_NAME.yaml`, and their names in the table."""
SHOWN = ("sds", "vsd", "uni_instruct")
"""Methods in the picture, beneath the true scenes."""
SIZE, GAP = 80, 6
"""Height of an image in the picture, and space above and below a method's, in pixels."""
VIEWS = (0, 3)
"""Numbers of the held-out cameras in the picture."""
Row = dict[str, Any]


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    add_seeds_and_jobs(parser)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=tuple(METHODS), help="default: all")
    options = parser.parse_args(arguments)
    pairs = [(method, seed) for method in options.methods for seed in options.seeds]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda pair: measure(*pair), pairs))
    results = {"conditions": {"machine": machine(), "commit": commit()}, "runs": merged(rows)}
    write_json(RESULTS, results)
    for block, text in render(results).items():
        block.write(text)
        print(text)
    if all((run_folder(method, 0) / "export").is_dir() for method in SHOWN):
        draw().save(PICTURE, optimize=True)


def run_folder(method: str, seed: int) -> Path:
    """Return the folder of a method's run."""
    return RUNS / f"lab_{method}-{seed}"


def measure(method: str, seed: int) -> Row:
    """Train a method unless its run is finished, and return what its particles show."""
    run = run_folder(method, seed)
    if not (run / "export").is_dir():
        preset = f"configs/3d/lab_{method}.yaml"
        run_python("train.py", preset, "--run_dir", str(run), "--seed", str(seed), threads=1)
    run_python("-m", "eval", "scene", "--run", str(run), threads=1)
    found = read_json(run / "scene.json")["known_scenes"]
    return {"method": method, "seed": seed, **found}


def merged(rows: Sequence[Row]) -> list[Row]:
    """Return new rows and the stored ones that they do not replace, by method and seed."""
    keys = {(row["method"], row["seed"]) for row in rows}
    stored = read_json(RESULTS)["runs"] if RESULTS.is_file() else []
    kept = [row for row in stored if (row["method"], row["seed"]) not in keys]
    return sorted([*kept, *rows], key=lambda row: (list(METHODS).index(row["method"]), row["seed"]))


def render(results: Mapping[str, Any]) -> dict[Block, str]:
    """Return the generated block with its text: found scenes, masses and PSNR of particles, by method."""
    lines = []
    for method, title in METHODS.items():
        rows = [row for row in results.get("runs", []) if row["method"] == method]
        if not rows:
            lines.append([title, *["not run"], *[""] * 4])
            continue
        found = ", ".join(f"{len(row['found'])} of {len(row['names'])}" for row in rows)
        masses = ["; ".join(f"{mass:.2f}" for mass in row["mass"].values()) for row in rows]
        quality = [sum(row["nearest_psnr"]) / len(row["nearest_psnr"]) for row in rows]
        worst = [min(row["nearest_psnr"]) for row in rows]
        cells = [found, masses[0], mean_and_std(quality, ".1f"), mean_and_std(worst, ".1f"), str(len(rows))]
        lines.append([title, *cells])
    head = ["method", "scenes found", "masses (seed 0)", "PSNR, mean", "PSNR, worst particle", "seeds"]
    return {BLOCK: markdown_table(head, lines)}


def draw() -> Image.Image:
    """Draw the true scenes, and beneath them the particles of each method; each from two sides."""
    first = read_run(run_folder(SHOWN[0], 0))
    teacher = first.teacher.load()
    views = held_out_views(first.generator.network.cameras, None)
    shown = Cameras.from_rows(views.rows()[list(VIEWS)])
    rows = [strip([teacher.render(shown, scene, SIZE, SIZE) for scene in range(len(teacher.fields))])]
    for method in SHOWN:
        generator = load_generator(run_folder(method, 0))
        numbers = torch.arange(generator.sizes.particles)[:, None].expand(-1, len(VIEWS))
        rows.append(strip([generator.render(shown, number, SIZE, SIZE) for number in numbers]))
    width = max(row.shape[2] for row in rows)
    padded = [F.pad(row, (0, width - row.shape[2], GAP, GAP), value=1.0) for row in rows]
    return to_pil(to_bytes(2 * torch.cat(padded, 1)[None] - 1)[0])


def strip(renders: Sequence[Render]) -> torch.Tensor:
    """Put scenes side by side and their views below each other, (3, height, width) in [0, 1]."""
    return torch.cat([torch.cat(list(render.colour), 1) for render in renders], 2)


if __name__ == "__main__":
    main(sys.argv[1:])
