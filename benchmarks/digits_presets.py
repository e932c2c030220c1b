"""The table of digits presets in the README: `python benchmarks/digits_presets.py [--jobs 2]`.

Distils every preset of `configs/digits` with three seeds, evaluates each student, and writes `benchmarks/results/digits_presets.json` and the
table between the markers in README.md. Finished runs under `runs/digits-presets` are not repeated, so it may be interrupted; results of presets and
seeds that are not asked for stay as they are. Seconds are those of training with one thread, of the seed that other work disturbed least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from distill.storage.files import read_json, write_json, write_text  # noqa: E402

RUNS = ROOT / "runs" / "digits-presets"
RESULTS = ROOT / "benchmarks" / "results" / "digits_presets.json"
PRESETS = (
    "diff_instruct", "dmd", "dmd2", "dmd2_4_steps", "f_distill", "sid", "sim", "sida", "sid_lsg", "uni_instruct", "uni_instruct_long",
)  # fmt: skip
COLUMNS = {
    "fd_pixel": "fd-pixel",
    "precision": "precision",
    "recall": "recall",
    "label_agreement": "label agreement",
}
BEGIN, END = "<!-- digits presets: begin -->", "<!-- digits presets: end -->"


def run(preset: str, seed: int) -> dict[str, Any]:
    """Distil one preset with one seed and evaluate the student; returns its numbers."""
    folder = RUNS / f"{preset}-{seed}"
    if not (folder / "eval.json").is_file():
        call("train.py", f"configs/digits/{preset}.yaml", "--run_dir", str(folder), "--seed", str(seed))
        call("-m", "eval", "--run", str(folder), "--no-teacher")
    evaluation, meta = read_json(folder / "eval.json"), read_json(folder / "meta.json")
    last = json.loads((folder / "stats.jsonl").read_text().splitlines()[-1])
    run = {
        "preset": preset,
        "seed": seed,
        "commit": meta["commit"],
        "machine": meta["machine"],
        "command": meta["command"],
    }
    run |= {"seconds": last["seconds"], "steps": last["step"], "images": last["images"]}
    return {**run, "evaluations": evaluation["sampling"]["student_evaluations"], **evaluation["student"]}


def teacher() -> dict[str, Any]:
    """The teacher's numbers, of its 35-evaluation sampler."""
    folder = RUNS / "teacher"
    if not (folder / "eval.json").is_file():
        call("-m", "eval", "--teacher", "assets/digits-teacher", "--data", "digits", "--out", str(folder))
    return read_json(folder / "eval.json")["teacher"]


def call(*words: str) -> None:
    """Run a command of the project with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{done.stderr[-2000:]}")


def table(rows: list[dict[str, Any]], its_teacher: dict[str, Any]) -> str:
    """Mean ± standard deviation over seeds of every preset, as Markdown."""
    lines = [
        f"| preset | evaluations | {' | '.join(COLUMNS.values())} | seconds | seeds |",
        "|---" * (len(COLUMNS) + 4) + "|",
    ]
    lines.append(f"| teacher | 35 | {' | '.join(f'{its_teacher[key]:.3f}' for key in COLUMNS)} | | 1 |")
    for preset in dict.fromkeys(row["preset"] for row in rows):
        chosen = [row for row in rows if row["preset"] == preset]
        cells = [spread([row[key] for row in chosen]) for key in COLUMNS]
        seconds = min(row["seconds"] for row in chosen)
        lines.append(
            f"| `{preset}` | {chosen[0]['evaluations']} | {' | '.join(cells)} | {seconds:.0f} | {len(chosen)} |"
        )
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean ± sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def write_readme(text: str) -> None:
    """Replace what stands between the markers."""
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(readme, f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--presets", nargs="+", choices=PRESETS, default=PRESETS, help="presets to run (default: all)"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of each (default: 0 1 2)"
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="processes side by side, one thread each (default: 2)"
    )
    options = parser.parse_args()
    pairs = [(preset, seed) for seed in options.seeds for preset in options.presets]
    with ThreadPoolExecutor(options.jobs) as pool:
        made = list(pool.map(lambda pair: run(*pair), pairs))
    kept = (
        [row for row in read_json(RESULTS)["runs"] if (row["preset"], row["seed"]) not in pairs]
        if RESULTS.is_file()
        else []
    )
    rows = sorted(kept + made, key=lambda row: (PRESETS.index(row["preset"]), row["seed"]))
    its_teacher = teacher()
    write_json(
        RESULTS, {"conditions": {"threads": 1, "images": 10_000}, "teacher": its_teacher, "runs": rows}
    )
    text = table(rows, its_teacher)
    write_readme(text)
    print(text)


if __name__ == "__main__":
    main()
