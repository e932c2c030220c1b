"""Reward against distance: `python benchmarks/preference_front.py [--jobs 2]`. Does score-based regularisation keep more at equal reward?

One student of the digits is distilled once, by DMD2; from there Diff-Instruct*, Diff-Instruct++ and the reward alone go on, three seeds each. The
first two have five weights of the reward and, so that nothing but the regularisation differs, no guidance; the reward alone has no weight to vary, as
Adam forgets the scale of a loss, and stops after five numbers of steps. The reward is the log-probability of the label under one classifier; another,
of another kind, never seen in training, says whether the labels are really seen. Writes benchmarks/results/preference_front.json and .png, and the
paragraph and the table between the markers in docs/methods.md. Finished runs under runs/preference are not repeated, so it may be interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
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

from distill.storage.files import read_json, write_json, write_text  # noqa: E402
from distill.storage.provenance import commit, machine  # noqa: E402

RUNS, RESULTS, PAGE = (
    ROOT / "runs" / "preference",
    ROOT / "benchmarks" / "results" / "preference_front.json",
    ROOT / "docs" / "methods.md",
)
START = ("configs/digits/dmd2.yaml", "--teacher.path", "assets/digits-guided-teacher")
STAR, PLUS, ALONE = "di_star", "di_plus_plus", "reward_alone"
NAMES = {STAR: "Diff-Instruct*", PLUS: "Diff-Instruct++", ALONE: "the reward alone"}
METHODS: dict[str, tuple[str, ...]] = {
    STAR: ("configs/digits/di_star.yaml", "--guidance.teacher", "1", "--terms.0.weight"),
    PLUS: ("configs/digits/di_plus_plus.yaml", "--terms.0.weight", "0", "--terms.1.weight"),
    ALONE: (
        "configs/digits/di_star.yaml", "--guidance.teacher", "1", "--objective.weight", "0", "--fake.warmup_steps", "0", "--terms.0.start_step", "0",
        "--steps",
    ),
}  # fmt: skip
"""Preset and what is changed in it; the last flag takes the method's values."""
WEIGHTS = (0.01, 0.1, 1.0, 10.0, 100.0)
VALUES: dict[str, tuple[float, ...]] = {STAR: WEIGHTS, PLUS: WEIGHTS, ALONE: (12, 25, 50, 100, 200)}
COLOURS = {STAR: "#2a6fbb", PLUS: "#c8551b", ALONE: "#7a828e"}
SEEDS = (0, 1, 2)
IMAGES = 5000
MEASURES = {
    "reward": "reward",
    "other_agreement": "agreement of the other",
    "fd_pixel": "fd-pixel",
    "precision": "precision",
    "recall": "recall",
}
BEGIN, END = "<!-- preference front: begin -->", "<!-- preference front: end -->"


def start() -> Path:
    """The student that all go on from."""
    folder = RUNS / "start"
    if not (folder / "export").is_dir():
        call("train.py", *START, "--run_dir", str(folder))
    return folder


def run(method: str, value: float, seed: int) -> dict[str, Any]:
    """Align one student and measure it; returns its numbers."""
    preset, *changes = METHODS[method]
    folder = RUNS / f"{method}-{value:g}-{seed}"
    if not (folder / "measured.json").is_file():
        settings = [
            "--run_dir",
            str(folder),
            "--seed",
            str(seed),
            "--generator.init_from",
            str(RUNS / "start"),
            "--stop_when",
            "[]",
        ]
        call("train.py", preset, *changes, f"{value:g}", *settings)
        call(__file__, "--measure", str(folder))
    meta, last = (
        read_json(folder / "meta.json"),
        json.loads((folder / "stats.jsonl").read_text().splitlines()[-1]),
    )
    row = {
        "method": method,
        "value": value,
        "seed": seed,
        "commit": meta["commit"],
        "seconds": last["seconds"],
    }
    return {**row, **read_json(folder / "measured.json")}


def measure(folder: Path) -> dict[str, float]:
    """A student's mean reward, and its distance, precision, recall and label agreement against the training images."""
    import torch

    from distill import load_generator
    from distill.data.images import from_bytes
    from distill.training.config import read_config
    from distill.types import Condition
    from eval.features import load_extractor
    from eval.images.streams import NetworkImages
    from eval.protocols import default_protocol
    from eval.run.evaluate import evaluate, measure_images
    from eval.run.subjects import open_real

    config: Any = read_config(ROOT / METHODS[STAR][0])
    real = open_real(config.data)
    assert real.held_out is not None
    protocol = default_protocol(real.train.image_shape)
    extractor = load_extractor(protocol.features)
    stream = NetworkImages(load_generator(folder), IMAGES, first_seed=10**6)
    made = measure_images(stream, "student", protocol, extractor, keep=IMAGES)
    with torch.no_grad():
        condition = Condition(made.features.labels)
        rewards = config.terms[0].rewards[0].load()(from_bytes(made.first), condition)
    train = measure_images(real.train, "real training images", protocol, extractor)
    held_out = measure_images(real.held_out, "real held-out images", protocol, extractor)
    found = evaluate({"student": made}, train, held_out, protocol)["student"]
    kept = {name: found[name] for name in ("fd_pixel", "precision", "recall")}
    return {"reward": rewards.mean().item(), "other_agreement": found["label_agreement"], **kept}


def call(*words: str) -> None:
    """Run a command of the project with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}:\n{done.stderr[-2000:]}")


def at_equal_reward(rows: list[dict[str, Any]], other: str, measure: str) -> list[float]:
    """For each seed, how much more of a measure Diff-Instruct* has than another, on average over the rewards that both reach, on a scale of
    log(-reward). Seeds whose rewards do not overlap are left out."""
    differences = []
    for seed in sorted({row["seed"] for row in rows}):
        one, two = (
            curve([row for row in rows if (row["method"], row["seed"]) == (method, seed)], measure)
            for method in (STAR, other)
        )
        low, high = max(one[0][0], two[0][0]), min(one[0][-1], two[0][-1])
        if low < high:
            at = np.linspace(low, high, 101)
            differences.append(float((np.interp(at, *one) - np.interp(at, *two)).mean()))
    return differences


def curve(rows: list[dict[str, Any]], measure: str) -> tuple[list[float], list[float]]:
    """-log(-reward), ascending, and a measure at each."""
    ordered = sorted(rows, key=lambda row: row["reward"])
    return [-math.log(-row["reward"]) for row in ordered], [row[measure] for row in ordered]


def verdict(rows: list[dict[str, Any]]) -> str:
    """What the runs say about the claim, in words."""
    said = []
    for other in (PLUS, ALONE):
        nearer, kept = (at_equal_reward(rows, other, measure) for measure in ("fd_pixel", "recall"))
        more = (
            f"{spread(nearer, '+.3f')} of fd-pixel and {spread(kept, '+.3f')} of recall"
            if nearer
            else "no reward in common"
        )
        wins = [
            name
            for name, better in (
                ("fd-pixel", max(nearer, default=0) < 0),
                ("recall", min(kept, default=0) > 0),
            )
            if better
        ]
        said.append(
            f"{more} against {NAMES[other]} (better with every seed in {' and '.join(wins) or 'neither'})"
        )
        if other == PLUS:
            shows = {0: "does not show here", 1: f"shows in {''.join(wins)} alone", 2: "shows"}[len(wins)]
    compared = f"At equal reward, on average over the rewards that both reach, Diff-Instruct\\* has {'; '.join(said)}."
    return f"{compared} The front that the paper claims, that score-based regularisation keeps more than Kullback and Leibler's, {shows}."


def spread(values: list[float], form: str = ".3f") -> str:
    """Mean ± sample standard deviation."""
    deviation = f" ± {statistics.stdev(values):{form.lstrip('+')}}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{form}}{deviation}"


def table(rows: list[dict[str, Any]], its_start: dict[str, float]) -> str:
    """Mean ± standard deviation over seeds of every method and value, as Markdown."""
    lines = [
        f"| method | weight or steps | {' | '.join(MEASURES.values())} |",
        "|---" * (len(MEASURES) + 2) + "|",
    ]
    lines.append(f"| the start | | {' | '.join(f'{its_start[name]:.4f}' for name in MEASURES)} |")
    for method, value in dict.fromkeys((row["method"], row["value"]) for row in rows):
        chosen = [row for row in rows if (row["method"], row["value"]) == (method, value)]
        cells = " | ".join(
            spread([row[name] for row in chosen], ".4f" if name == "reward" else ".3f") for name in MEASURES
        )
        name = NAMES[method].replace("*", r"\*")
        lines.append(f"| {name} | {value:g}{' steps' * (method == ALONE)} | {cells} |")
    return "\n".join(lines)


def picture(rows: list[dict[str, Any]], its_start: dict[str, float], path: Path) -> None:
    """Reward against fd-pixel and recall: a point for each run, the larger the more the reward had to say; a line through the means over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("fd_pixel", "recall"), strict=True):
        for method, colour in COLOURS.items():
            by_value = [
                [row for row in rows if (row["method"], row["value"]) == (method, value)]
                for value in VALUES[method]
            ]
            means = [
                [statistics.mean(row[key] for row in chosen) for chosen in by_value if chosen]
                for key in ("reward", name)
            ]
            axes.plot([-reward for reward in means[0]], means[1], color=colour, label=NAMES[method])
            for size, chosen in zip((12, 24, 40, 60, 85), by_value, strict=True):
                axes.scatter(
                    [-row["reward"] for row in chosen],
                    [row[name] for row in chosen],
                    s=size,
                    color=colour,
                    alpha=0.5,
                    linewidths=0,
                )
        axes.plot(-its_start["reward"], its_start[name], "k+", markersize=12, label="the start")
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xlabel("-log p(label) of the classifier: more reward to the right")
        axes.set_ylabel(f"{MEASURES[name]} ({'lower' if name == 'fd_pixel' else 'higher'} is better)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def write_page(text: str) -> None:
    """Replace what stands between the markers."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    write_text(PAGE, f"{before}{BEGIN}\n{text}\n{END}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="seeds of each (default: 0 1 2)")
    parser.add_argument(
        "--jobs", type=int, default=2, help="processes side by side, one thread each (default: 2)"
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        write_json(options.measure / "measured.json", measure(options.measure))
        return
    begun = start()
    if not (begun / "measured.json").is_file():
        call(__file__, "--measure", str(begun))
    its_start = read_json(begun / "measured.json")
    cells = [
        (method, value, seed) for seed in options.seeds for method in METHODS for value in VALUES[method]
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda cell: run(*cell), cells))
    rows.sort(key=lambda row: (list(METHODS).index(row["method"]), row["value"], row["seed"]))
    conditions = {"machine": machine(), "commit": commit(), "threads": 1, "images": IMAGES}
    write_json(RESULTS, {"conditions": conditions, "start": its_start, "runs": rows})
    picture(rows, its_start, RESULTS.with_suffix(".png"))
    write_page(f"{verdict(rows)}\n\n{table(rows, its_start)}")
    print(table(rows, its_start), verdict(rows), sep="\n\n")


if __name__ == "__main__":
    main()
