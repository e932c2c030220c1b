"""Reward against distance: `python benchmarks/preference_front.py [--jobs 2]`. Does score-based regularisation keep more at equal reward?

One student of the digits is distilled once, by DMD2; from there Diff-Instruct*, Diff-Instruct++ and the reward alone go on for as many steps, with five
weights of the reward and three seeds each. The reward is the log-probability of the label under one classifier; another, of another kind, never seen in
training, says whether the labels are really seen. Writes benchmarks/results/preference_front.json and .png, and the paragraph and the table between the
markers in docs/methods.md. Finished runs under runs/preference are not repeated, so it may be interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from distill.files import read_json, write_json, write_text  # noqa: E402
from distill.run_folder import commit, machine  # noqa: E402

RUNS, RESULTS, PAGE = ROOT / "runs" / "preference", ROOT / "benchmarks" / "results" / "preference_front.json", ROOT / "docs" / "methods.md"
START = ("configs/digits/dmd2.yaml", "--teacher.path", "assets/digits-guided-teacher")
METHODS: dict[str, tuple[str, ...]] = {
    "di_star": ("configs/digits/di_star.yaml", "--terms.0.weight"),
    "di_plus_plus": ("configs/digits/di_plus_plus.yaml", "--terms.1.weight"),
    "reward alone": ("configs/digits/di_star.yaml", "--objective.weight", "0", "--terms.0.weight"),
}
"""Preset and what is changed in it; the last word takes the reward's weight."""
WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3)
SEEDS = (0, 1, 2)
IMAGES = 5000
MEASURES = {"reward": "reward", "other_agreement": "agreement of the other", "fd_pixel": "fd-pixel", "precision": "precision", "recall": "recall"}
BEGIN, END = "<!-- preference front: begin -->", "<!-- preference front: end -->"
COLOURS = {"di_star": "#2a6fbb", "di_plus_plus": "#c8551b", "reward alone": "#7a828e"}


def start() -> Path:
    """The student that all go on from."""
    folder = RUNS / "start"
    if not (folder / "export").is_dir():
        call("train.py", *START, "--run_dir", str(folder))
    return folder


def run(method: str, weight: float, seed: int) -> dict[str, Any]:
    """Align one student and measure it; returns its numbers."""
    folder = RUNS / f"{method.replace(' ', '_')}-{weight:g}-{seed}"
    if not (folder / "measured.json").is_file():
        preset, *changes = METHODS[method]
        settings = ["--run_dir", str(folder), "--seed", str(seed), "--generator.init_from", str(RUNS / "start"), "--stop_when", "[]"]
        call("train.py", preset, *changes, str(weight), *settings)
        call(__file__, "--measure", str(folder))
    meta, last = read_json(folder / "meta.json"), json.loads((folder / "stats.jsonl").read_text().splitlines()[-1])
    row = {"method": method, "weight": weight, "seed": seed, "commit": meta["commit"], "seconds": last["seconds"]}
    return {**row, **read_json(folder / "measured.json")}


def measure(folder: Path) -> dict[str, float]:
    """A student's mean reward, and its distance, precision, recall and label agreement against the training images."""
    import torch

    from distill import load_generator
    from distill.config import read_config
    from distill.images import from_bytes
    from distill.types import Condition
    from eval.evaluate import evaluate
    from eval.sources import draw_student, read_real

    config: Any = read_config(ROOT / METHODS["di_star"][0])
    made = draw_student(load_generator(folder), range(10**6, 10**6 + IMAGES), 256)
    with torch.no_grad():
        rewards = config.terms[0].rewards[0].load()(from_bytes(made.pixels), Condition(made.labels))
    found = evaluate({"student": made}, *read_real(config.data))["student"]
    kept = {name: found[name] for name in ("fd_pixel", "precision", "recall")}
    return {"reward": rewards.mean().item(), "other_agreement": found["label_agreement"], **kept}


def call(*words: str) -> None:
    """Run a command of the project with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{done.stderr[-2000:]}")


def at_equal_reward(rows: list[dict[str, Any]], measure: str) -> list[float]:
    """For each seed, how much more of a measure Diff-Instruct* has than Diff-Instruct++, on average over the rewards that both reach."""
    differences = []
    for seed in sorted({row["seed"] for row in rows}):
        curves = {method: curve([row for row in rows if row["seed"] == seed and row["method"] == method], measure) for method in METHODS}
        (star, of_star), (plus, of_plus) = curves["di_star"], curves["di_plus_plus"]
        low, high = max(star[0], plus[0]), min(star[-1], plus[-1])
        if low < high:
            rewards = np.linspace(low, high, 101)
            differences.append(float((np.interp(rewards, star, of_star) - np.interp(rewards, plus, of_plus)).mean()))
    return differences


def curve(rows: list[dict[str, Any]], measure: str) -> tuple[list[float], list[float]]:
    """Reward, ascending, and a measure."""
    ordered = sorted(rows, key=lambda row: row["reward"])
    return [row["reward"] for row in ordered], [row[measure] for row in ordered]


def verdict(rows: list[dict[str, Any]]) -> str:
    """What the runs say about the claim, in words."""
    said, supports = [], []
    for measure, name, better in (("fd_pixel", "fd-pixel", -1), ("recall", "recall", 1)):
        differences = at_equal_reward(rows, measure)
        if not differences:
            return "The rewards that Diff-Instruct\\* and Diff-Instruct++ reach do not overlap: at equal reward they cannot be compared."
        said.append(f"a {name} of {spread(differences, '+.3f')}")
        supports.append(all(better * difference > 0 for difference in differences))
    compared = f"At equal reward, on average over the rewards that both reach, Diff-Instruct\\* has against Diff-Instruct++ {' and '.join(said)}"
    answer = {
        (True, True): "The front of the paper shows: score-based regularisation keeps more, by both measures and with every seed.",
        (False, False): "The front of the paper does not show here: neither measure is better with every seed.",
    }.get(tuple(supports), f"The front of the paper shows in {'fd-pixel' if supports[0] else 'recall'} with every seed, and not in the other.")
    return f"{compared} (less {'{'}fd-pixel{'}'} and more recall are better). {answer}".replace("{fd-pixel}", "fd-pixel")


def spread(values: list[float], form: str = ".3f") -> str:
    """Mean ± sample standard deviation."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{deviation}"


def table(rows: list[dict[str, Any]], its_start: dict[str, float]) -> str:
    """Mean ± standard deviation over seeds of every method and weight, as Markdown."""
    lines = [f"| method | weight | {' | '.join(MEASURES.values())} |", "|---" * (len(MEASURES) + 2) + "|"]
    lines.append(f"| the start | | {' | '.join(f'{its_start[name]:.3f}' for name in MEASURES)} |")
    for method, weight in dict.fromkeys((row["method"], row["weight"]) for row in rows):
        chosen = [row for row in rows if (row["method"], row["weight"]) == (method, weight)]
        lines.append(f"| {method} | {weight:g} | {' | '.join(spread([row[name] for row in chosen]) for name in MEASURES)} |")
    return "\n".join(lines)


def picture(rows: list[dict[str, Any]], its_start: dict[str, float], path: Path) -> None:
    """Reward against fd-pixel and recall: a point for each run, the larger the heavier the reward; a line through the means over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("fd_pixel", "recall"), strict=True):
        for method, colour in COLOURS.items():
            chosen = [row for row in rows if row["method"] == method]
            weights = sorted({row["weight"] for row in chosen})
            sizes = [15 + 20 * weights.index(row["weight"]) for row in chosen]
            axes.scatter([row["reward"] for row in chosen], [row[name] for row in chosen], s=sizes, color=colour, alpha=0.5, linewidths=0)
            means = [[statistics.mean(row[key] for row in chosen if row["weight"] == weight) for weight in weights] for key in ("reward", name)]
            axes.plot(*means, color=colour, label=method)
        axes.plot(its_start["reward"], its_start[name], "k+", markersize=12, label="the start")
        axes.set_xlabel("reward: mean log-probability of the label")
        axes.set_ylabel(f"{MEASURES[name]} ({'lower' if name == 'fd_pixel' else 'higher'} is better)")
        axes.set_yscale("log" if name == "fd_pixel" else "linear")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def write_page(text: str) -> None:
    """Replace what stands between the markers."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(PAGE, f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS, help="weights of the reward (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds of each (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side, one thread each (default: 2)")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        write_json(options.measure / "measured.json", measure(options.measure))
        return
    begun = start()
    if not (begun / "measured.json").is_file():
        call(__file__, "--measure", str(begun))
    its_start = read_json(begun / "measured.json")
    cells = list(itertools.product(METHODS, options.weights, options.seeds))
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda cell: run(*cell), sorted(cells, key=lambda cell: cell[2])))
    rows.sort(key=lambda row: (list(METHODS).index(row["method"]), row["weight"], row["seed"]))
    conditions = {"machine": machine(), "commit": commit(), "threads": 1, "images": IMAGES}
    write_json(RESULTS, {"conditions": conditions, "start": its_start, "runs": rows})
    picture(rows, its_start, RESULTS.with_suffix(".png"))
    write_page(f"{verdict(rows)}\n\n{table(rows, its_start)}")
    print(table(rows, its_start), verdict(rows), sep="\n\n")


if __name__ == "__main__":
    main()
