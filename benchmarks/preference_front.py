"""Compare what aligned students keep at equal reward: `python benchmarks/preference_front.py [--jobs 2]`.

DMD2 distils one student of the digits. From there Diff-Instruct*, Diff-Instruct++ and the reward alone
continue, three seeds each. The first two have five weights of the reward and no guidance, so that only the
regularisation differs. Adam forgets the scale of a loss, so the reward alone has no weight to vary: it stops
after five numbers of steps. The reward is the log-probability of the label under one classifier; a classifier
of another kind, which no training used, checks that the labels are really visible.

Finished runs under runs/preference are not repeated, so the script may be interrupted. Writes
benchmarks/results/preference_front.json and .png, and the paragraph and the table in docs/methods.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import project
from benchmarks.document import Block, markdown_table, mean_and_std
from benchmarks.project import ROOT, add_seeds_and_jobs, argument_parser, run_python
from distill.storage.files import read_json, write_json
from distill.storage.provenance import commit, machine

RUNS = project.RUNS / "preference"
RESULTS = project.RESULTS / "preference_front.json"
BLOCK = Block(ROOT / "docs" / "methods.md", "preference front")
START = ("configs/digits/dmd2.yaml", "--teacher.path", "assets/digits-guided-teacher")
STAR_PRESET = "configs/digits/di_star.yaml"
WEIGHTS = (0.01, 0.1, 1.0, 10.0, 100.0)
IMAGES = 5000


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to align the student, with one number to vary."""

    title: str
    command: tuple[str, ...]
    """Preset and its changed settings; the last flag takes the number."""
    values: tuple[float, ...]
    colour: str
    unit: str = ""


STAR, PLUS, ALONE = "di_star", "di_plus_plus", "reward_alone"
METHODS = {
    STAR: Method(
        title="Diff-Instruct*",
        command=(STAR_PRESET, "--guidance.teacher", "1", "--terms.0.weight"),
        values=WEIGHTS,
        colour="#2a6fbb",
    ),
    PLUS: Method(
        title="Diff-Instruct++",
        command=("configs/digits/di_plus_plus.yaml", "--terms.0.weight", "0", "--terms.1.weight"),
        values=WEIGHTS,
        colour="#c8551b",
    ),
    ALONE: Method(
        title="the reward alone",
        command=(
            *(STAR_PRESET, "--guidance.teacher", "1", "--objective.weight", "0"),
            *("--fake.warmup_steps", "0", "--terms.0.start_step", "0", "--steps"),
        ),
        values=(12, 25, 50, 100, 200),
        colour="#7a828e",
        unit=" steps",
    ),
}
MEASURES = {
    "reward": "reward",
    "other_agreement": "agreement of the other",
    "fd_pixel": "fd-pixel",
    "precision": "precision",
    "recall": "recall",
}
"""Names of the measures in the results, and on the page."""
Row = dict[str, Any]
"""The results of one run: its method, value and seed, and its measures."""


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    add_seeds_and_jobs(parser)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure is not None:
        write_json(options.measure / "measured.json", measure(options.measure))
        return
    start = distil_start()
    cells = [
        (name, value, seed)
        for seed in options.seeds
        for name, method in METHODS.items()
        for value in method.values
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda cell: run(*cell), cells))
    rows.sort(key=lambda row: (list(METHODS).index(row["method"]), row["value"], row["seed"]))
    conditions = {"machine": machine(), "commit": commit(), "threads": 1, "images": IMAGES}
    results = {"conditions": conditions, "start": start, "runs": rows}
    write_json(RESULTS, results)
    draw(results, RESULTS.with_suffix(".png"))
    for block, text in render(results).items():
        block.write(text)
        print(text)


def distil_start() -> dict[str, float]:
    """Distil the student that all methods continue from, and measure it."""
    folder = RUNS / "start"
    if not (folder / "export").is_dir():
        run_python("train.py", *START, "--run_dir", str(folder), threads=1)
    if not (folder / "measured.json").is_file():
        run_python(__file__, "--measure", str(folder), threads=1)
    return read_json(folder / "measured.json")


def run(method: str, value: float, seed: int) -> Row:
    """Align one student and measure it."""
    folder = RUNS / f"{method}-{value:g}-{seed}"
    if not (folder / "measured.json").is_file():
        settings = [
            *("--run_dir", str(folder)),
            *("--seed", str(seed)),
            *("--generator.init_from", str(RUNS / "start")),
            *("--stop_when", "[]"),
        ]
        run_python("train.py", *METHODS[method].command, f"{value:g}", *settings, threads=1)
        run_python(__file__, "--measure", str(folder), threads=1)
    meta = read_json(folder / "meta.json")
    last = json.loads((folder / "stats.jsonl").read_text().splitlines()[-1])
    return {
        "method": method,
        "value": value,
        "seed": seed,
        "commit": meta["commit"],
        "seconds": last["seconds"],
        **read_json(folder / "measured.json"),
    }


def measure(folder: Path) -> dict[str, float]:
    """Measure a student: its mean reward, and its metrics against the training images."""
    import torch

    from distill import load_generator
    from distill.data.images import from_bytes
    from distill.eval.features import load_extractor
    from distill.eval.images.streams import NetworkImages
    from distill.eval.protocols import default_protocol
    from distill.eval.run.evaluate import evaluate, measure_images
    from distill.eval.run.subjects import open_real
    from distill.objectives.terms import reward
    from distill.training.config import read_config
    from distill.training.settings import DistillRun
    from distill.types import Condition

    config = read_config(ROOT / STAR_PRESET)
    assert isinstance(config, DistillRun)
    assert config.data is not None
    real = open_real(config.data)
    assert real.held_out is not None
    protocol = default_protocol(real.train.image_shape)
    extractor = load_extractor(protocol.features)
    stream = NetworkImages(load_generator(folder), IMAGES, first_seed=10**6)
    made = measure_images(stream, "student", protocol, extractor, keep=IMAGES)
    term = config.terms[0]
    assert isinstance(term, reward.Settings)
    with torch.no_grad():
        rewards = term.rewards[0].load()(from_bytes(made.first), Condition(made.features.labels))
    train = measure_images(real.train, "real training images", protocol, extractor)
    held_out = measure_images(real.held_out, "real held-out images", protocol, extractor)
    metrics = evaluate({"student": made}, train, held_out, protocol)["student"]
    return {
        "reward": rewards.mean().item(),
        "other_agreement": metrics["label_agreement"],
        "fd_pixel": metrics["fd_pixel"],
        "precision": metrics["precision"],
        "recall": metrics["recall"],
    }


def render(results: Mapping[str, Any]) -> dict[Block, str]:
    """Return the generated block with its text: the verdict, then the table."""
    rows = results["runs"]
    return {BLOCK: f"{verdict(rows)}\n\n{table(rows, results['start'])}"}


def verdict(rows: list[Row]) -> str:
    """Compare Diff-Instruct* with the other two methods at equal reward, in words."""
    compared = "; ".join(compare(rows, other) for other in (PLUS, ALONE))
    wins = measures_won(gaps_at_equal_reward(rows, PLUS))
    if not wins:
        outcome = "does not show here"
    elif len(wins) == 1:
        outcome = f"shows in {wins[0]} alone"
    else:
        outcome = "shows"
    return (
        "At equal reward, on average over the rewards that both reach, "
        rf"Diff-Instruct\* has {compared}. The front that the paper claims, that score-based regularisation "
        f"keeps more than Kullback and Leibler's, {outcome}."
    )


def compare(rows: list[Row], other: str) -> str:
    """Say how much more fd-pixel and recall Diff-Instruct* has than another method at equal reward."""
    gaps = gaps_at_equal_reward(rows, other)
    difference = "no reward in common"
    if gaps["fd_pixel"]:
        distance = mean_and_std(gaps["fd_pixel"], "+.3f")
        recall = mean_and_std(gaps["recall"], "+.3f")
        difference = f"{distance} of fd-pixel and {recall} of recall"
    wins = " and ".join(measures_won(gaps)) or "neither"
    return f"{difference} against {METHODS[other].title} (better with every seed in {wins})"


def measures_won(gaps: Mapping[str, list[float]]) -> list[str]:
    """Return the measures in which Diff-Instruct* is better with every seed."""
    wins = []
    if max(gaps["fd_pixel"], default=0) < 0:
        wins.append("fd-pixel")
    if min(gaps["recall"], default=0) > 0:
        wins.append("recall")
    return wins


def gaps_at_equal_reward(rows: list[Row], other: str) -> dict[str, list[float]]:
    """Return, for fd-pixel and recall, how much more Diff-Instruct* has than another method, by seed.

    A gap is the average over the rewards that both reach, on a scale of log(-reward). Seeds whose rewards do
    not overlap are left out.
    """
    gaps: dict[str, list[float]] = {"fd_pixel": [], "recall": []}
    for seed in sorted({row["seed"] for row in rows}):
        star_rows = [row for row in rows if (row["method"], row["seed"]) == (STAR, seed)]
        other_rows = [row for row in rows if (row["method"], row["seed"]) == (other, seed)]
        for name in gaps:
            star_curve = curve(star_rows, name)
            other_curve = curve(other_rows, name)
            low = max(star_curve[0][0], other_curve[0][0])
            high = min(star_curve[0][-1], other_curve[0][-1])
            if low < high:
                at = np.linspace(low, high, 101)
                gap = np.interp(at, *star_curve) - np.interp(at, *other_curve)
                gaps[name].append(float(gap.mean()))
    return gaps


def curve(rows: list[Row], measure: str) -> tuple[list[float], list[float]]:
    """Return -log(-reward), ascending, and a measure at each."""
    ordered = sorted(rows, key=lambda row: row["reward"])
    return [-math.log(-row["reward"]) for row in ordered], [row[measure] for row in ordered]


def table(rows: list[Row], start: Mapping[str, float]) -> str:
    """Return mean and standard deviation over seeds of every method and value, as Markdown."""
    lines = [["the start", "", *(f"{start[name]:.4f}" for name in MEASURES)]]
    for key, value in dict.fromkeys((row["method"], row["value"]) for row in rows):
        chosen = [row for row in rows if (row["method"], row["value"]) == (key, value)]
        method = METHODS[key]
        title = method.title.replace("*", r"\*")
        lines.append([title, f"{value:g}{method.unit}", *(measure_cell(chosen, name) for name in MEASURES)])
    return markdown_table(["method", "weight or steps", *MEASURES.values()], lines)


def measure_cell(rows: list[Row], name: str) -> str:
    """Return a measure's mean and standard deviation; rewards are small and take a fourth digit."""
    return mean_and_std([row[name] for row in rows], ".4f" if name == "reward" else ".3f")


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Plot fd-pixel and recall against the reward."""
    from matplotlib.figure import Figure

    start = results["start"]
    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("fd_pixel", "recall"), strict=True):
        for key, method in METHODS.items():
            draw_method(axes, method, [row for row in results["runs"] if row["method"] == key], name)
        axes.plot(-start["reward"], start[name], "k+", markersize=12, label="the start")
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xlabel("-log p(label) of the classifier: more reward to the right")
        axes.set_ylabel(f"{MEASURES[name]} ({'lower' if name == 'fd_pixel' else 'higher'} is better)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def draw_method(axes: Any, method: Method, rows: list[Row], name: str) -> None:
    """Plot a point for each run, larger for a larger value, and a line through the means over seeds."""
    by_value = [[row for row in rows if row["value"] == value] for value in method.values]
    present = [chosen for chosen in by_value if chosen]
    rewards = [-statistics.mean(row["reward"] for row in chosen) for chosen in present]
    means = [statistics.mean(row[name] for row in chosen) for chosen in present]
    axes.plot(rewards, means, color=method.colour, label=method.title)
    for size, chosen in zip((12, 24, 40, 60, 85), by_value, strict=True):
        x = [-row["reward"] for row in chosen]
        y = [row[name] for row in chosen]
        axes.scatter(x, y, s=size, color=method.colour, alpha=0.5, linewidths=0)


if __name__ == "__main__":
    main(sys.argv[1:])
