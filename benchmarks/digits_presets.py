"""Compare the presets of `configs/digits`: `python benchmarks/digits_presets.py [--jobs 2]`.

Distils every preset with three seeds and evaluates each student. Finished runs under runs/digits-presets are
not repeated, so the script may be interrupted. Writes the table in README.md, and
benchmarks/results/digits_presets.json, where results of other presets and seeds are kept. The seconds are the
training time of the fastest of three seeds, on one thread: other work on the machine delayed it least.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import project
from benchmarks.document import Block, markdown_table, mean_and_std
from benchmarks.project import ROOT, SEEDS, add_seeds_and_jobs, argument_parser, run_python
from distill.storage.files import read_json, write_json

RUNS = project.RUNS / "digits-presets"
RESULTS = project.RESULTS / "digits_presets.json"
BLOCK = Block(ROOT / "README.md", "digits presets")
PRESETS = (
    "diff_instruct",
    "dmd",
    "dmd2",
    "dmd2_4_steps",
    "dmd2_alignment",
    "decoupled_dmd",
    "dp_dmd",
    "dmd2_4_steps_data",
    "f_distill",
    "sid",
    "sim",
    "sida",
    "sid_lsg",
    "sid_zero_cfg",
    "sid_anti_cfg",
    "realuid",
    "uni_instruct",
    "uni_instruct_long",
    "fd_loss",
)
TRAINED_ON_PIXELS = ("fd_loss",)
"""Presets that minimise the distance which the table shows."""
COLUMNS = {
    "fd_pixel": "fd-pixel",
    "precision": "precision",
    "recall": "recall",
    "label_agreement": "label agreement",
}
"""Names of the metrics in the results, and in the table."""
Row = dict[str, Any]
"""The results of one run: its preset and seed, how it was made, and its metrics."""


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--presets", nargs="+", choices=PRESETS, default=PRESETS, help="presets to run (default: all)"
    )
    add_seeds_and_jobs(parser)
    options = parser.parse_args(arguments)
    pairs = [(preset, seed) for seed in options.seeds for preset in options.presets]
    with ThreadPoolExecutor(options.jobs) as pool:
        new = list(pool.map(lambda pair: run(*pair), pairs))
    rows = [row for row in stored_rows() if (row["preset"], row["seed"]) not in pairs] + new
    rows.sort(key=lambda row: (PRESETS.index(row["preset"]), row["seed"]))
    conditions = {"threads": 1, "images": 10_000}
    results = {"conditions": conditions, "teacher": evaluate_teacher(), "runs": rows}
    write_json(RESULTS, results)
    for block, text in render(results).items():
        block.write(text)
        print(text)


def run(preset: str, seed: int) -> Row:
    """Distil one preset with one seed and evaluate the student."""
    folder = RUNS / f"{preset}-{seed}"
    if not (folder / "eval.json").is_file():
        config = f"configs/digits/{preset}.yaml"
        run_python("train.py", config, "--run_dir", str(folder), "--seed", str(seed), threads=1)
        run_python("-m", "eval", "--run", str(folder), "--no-teacher", threads=1)
    evaluation = read_json(folder / "eval.json")
    meta = read_json(folder / "meta.json")
    last = json.loads((folder / "stats.jsonl").read_text().splitlines()[-1])
    return {
        "preset": preset,
        "seed": seed,
        "commit": meta["commit"],
        "machine": meta["machine"],
        "command": meta["command"],
        "seconds": last["seconds"],
        "steps": last["step"],
        "images": last["images"],
        "evaluations": evaluation["sampling"]["student_evaluations"],
        **evaluation["student"],
    }


def evaluate_teacher() -> dict[str, Any]:
    """Return the metrics of the teacher, sampled with 35 evaluations."""
    folder = RUNS / "teacher"
    if not (folder / "eval.json").is_file():
        teacher = ("--teacher", "assets/digits-teacher", "--data", "digits")
        run_python("-m", "eval", *teacher, "--out", str(folder), threads=1)
    return read_json(folder / "eval.json")["teacher"]


def stored_rows() -> list[Row]:
    """Return the rows of the results on disk."""
    return read_json(RESULTS)["runs"] if RESULTS.is_file() else []


def render(results: Mapping[str, Any]) -> dict[Block, str]:
    """Return the generated block with its text: mean and standard deviation over seeds of every preset."""
    rows = results["runs"]
    teacher = ["teacher", "35", *(f"{results['teacher'][name]:.3f}" for name in COLUMNS), "", "1"]
    students = [table_row(preset, [row for row in rows if row["preset"] == preset]) for preset in PRESETS]
    head = ["preset", "evaluations", *COLUMNS.values(), "seconds", "seeds"]
    return {BLOCK: markdown_table(head, [teacher, *students])}


def table_row(preset: str, rows: list[Row]) -> list[str]:
    """Return the table's row of one preset's runs, if there are any."""
    name = f"`{preset}`" + " (trained on fd-pixel)" * (preset in TRAINED_ON_PIXELS)
    if not rows:
        return [name, "", "not run", *[""] * len(COLUMNS), "0"]
    metrics = [mean_and_std([row[name] for row in rows]) for name in COLUMNS]
    seconds = f"{min(row['seconds'] for row in rows):.0f}" if len(rows) == len(SEEDS) else ""
    return [
        name,
        str(rows[0]["evaluations"]),
        *metrics,
        seconds,
        str(len(rows)),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
