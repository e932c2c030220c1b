"""Compare divergences and gradient estimators: `python benchmarks/study.py [--scenes ring far_modes digits]`.

Distils every scene with every divergence and every estimator, three seeds each, all else equal, and evaluates
each student. Measures the noise of each gradient at one student that all of them share. Writes
benchmarks/results/study.json, a plot for each scene, and the tables in docs/methods.md. Finished runs under
runs/study are not repeated, so the script may be interrupted.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import statistics
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import project
from benchmarks.document import Block, markdown_table, mean_and_std
from benchmarks.project import ROOT, add_seeds_and_jobs, argument_parser
from distill.config.errors import TrainingError
from distill.eval.__main__ import main as evaluate
from distill.storage.files import read_json, write_json
from distill.storage.provenance import commit, machine
from train import main as train

if TYPE_CHECKING:
    from distill.training.distillation.task import Distillation

RUNS = project.RUNS / "study"
RESULTS = project.RESULTS / "study.json"
PAGE = ROOT / "docs" / "methods.md"
DIVERGENCES = (
    "reverse_kl",
    "softened_reverse_kl",
    "jensen_shannon",
    "squared_hellinger",
    "jeffreys",
    "forward_kl",
    "pearson_chi2",
    "neyman_chi2",
    "0.4*forward_kl+0.6*reverse_kl",
)
ESTIMATORS = {
    "matching": "name: distribution_matching",
    "exact": "name: expanded_divergence, estimator: exact",
    "published": "name: expanded_divergence, estimator: published",
}
"""Settings of each estimator, as YAML."""
MARKS = {
    "matching": (-0.22, "#2a6fbb", "right"),
    "exact": (0, "#c8551b", "center"),
    "published": (0.22, "#7a828e", "left"),
}
"""Shift, colour and alignment of each estimator in a plot."""
REFERENCE_SEED = 100
"""Seed of the student at which the noise of the gradients is compared; its settings are the preset's own."""
BATCHES = 64
"""Batches from which the noise of a gradient is estimated."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """One distillation task of the study."""

    preset: str
    steps: int
    weighting: str
    """Weighting over noise levels: the exact one where there are few dimensions."""
    measures: tuple[str, ...]
    """Metrics that are compared; the first is plotted."""


EXACT_MEASURES = ("jensen_shannon", "forward_kl", "reverse_kl", "mode_error", "stray")
IMAGE_MEASURES = ("fd_pixel", "precision", "recall", "label_agreement")
SCENES = {
    "ring": Scene("configs/lab/exact_ring.yaml", 500, "prediction", EXACT_MEASURES),
    "far_modes": Scene("configs/lab/exact_far_modes.yaml", 500, "prediction", EXACT_MEASURES),
    "digits": Scene("configs/digits/uni_instruct.yaml", 200, "dmd", IMAGE_MEASURES),
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One combination that the study compares, by names."""

    scene: str
    divergence: str
    estimator: str

    @property
    def objective(self) -> str:
        """The objective's settings, as YAML."""
        estimator = ESTIMATORS[self.estimator]
        weighting = SCENES[self.scene].weighting
        return f"{{{estimator}, divergence: '{self.divergence}', weighting: {weighting}}}"


Row = dict[str, Any]
"""The results of a cell: its names, and its metrics or its noise."""


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--scenes", nargs="+", choices=SCENES, default=list(SCENES), help="scenes to run (default: all)"
    )
    add_seeds_and_jobs(parser)
    options = parser.parse_args(arguments)
    results = read_json(RESULTS) if RESULTS.is_file() else {}
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), start_worker) as pool:
        for scene in options.scenes:
            results[scene] = run_scene(scene, options.seeds, pool)
            write_json(RESULTS, results)
            draw(scene, results[scene]["runs"], RESULTS.parent / f"study_{scene}.png")
            for block, text in render({scene: results[scene]}).items():
                block.write(text)
            print(json.dumps({"scene": scene, "runs": len(results[scene]["runs"])}))


def run_scene(scene: str, seeds: list[int], pool: Executor) -> dict[str, Any]:
    """Distil and evaluate all students of a scene, and measure the noise of the gradients."""
    cells = [Cell(scene, divergence, estimator) for divergence in DIVERGENCES for estimator in ESTIMATORS]
    reference = RUNS / scene / "reference"
    if not (reference / "export").is_dir():
        pool.submit(distil, scene, reference, "--seed", str(REFERENCE_SEED)).result()
    rows = list(pool.map(run, cells * len(seeds), [seed for seed in seeds for _ in cells]))
    noises = list(pool.map(measure_noise, cells))
    return {"machine": machine(), "commit": commit(), "runs": rows, "noise": noises}


def start_worker() -> None:
    """Prepare a process of the pool: it works in the project's folder and prints nothing."""
    os.chdir(ROOT)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - open while the process lives


def run(cell: Cell, seed: int) -> Row:
    """Distil and evaluate one student.

    Its metrics are None if training stopped because a loss was not finite.
    """
    scene = SCENES[cell.scene]
    folder = RUNS / cell.scene / f"{cell.divergence}-{cell.estimator}-{seed}"
    row = {**dataclasses.asdict(cell), "seed": seed}
    if not (folder / "eval.json").is_file():
        try:
            distil(cell.scene, folder, "--seed", str(seed), "--objective", cell.objective)
        except TrainingError:
            return {**row, "stopped": True, **dict.fromkeys(scene.measures)}
        options = ["--no-teacher"] if cell.scene == "digits" else []
        evaluate(["--run", str(folder), *options])
    student = read_json(folder / "eval.json")["student"]
    return {**row, "stopped": False, **{name: student[name] for name in scene.measures}}


def distil(scene: str, folder: Path, *settings: str) -> None:
    """Train the preset of a scene with these settings changed."""
    steps = str(SCENES[scene].steps)
    train([SCENES[scene].preset, "--run_dir", str(folder), "--steps", steps, *settings])


def measure_noise(cell: Cell) -> Row:
    """Measure the relative noise of a cell's gradient at the reference student of its scene."""
    noise = gradient_noise(RUNS / cell.scene / "reference", cell.objective)
    return {**dataclasses.asdict(cell), "noise": noise}


def gradient_noise(folder: Path, objective: str) -> float:
    """Estimate E|g - E g|^2 / |E g|^2 over batches, at the last student of a run.

    g is the gradient of the objective, given as YAML, with respect to the student's parameters.
    """
    import torch

    from distill.training.distillation.losses import frozen, generator_loss

    task = load_task(folder, objective)
    others = [module for name, module in task.modules.items() if name != "generator"]
    parameters = list(task.generator.parameters())
    gradients = []
    for batch in itertools.islice(task.stream, BATCHES):
        with frozen(*others):
            x0 = task.generator(batch.z, batch.cond)
            losses, _ = generator_loss(task.networks, task.method, batch, x0, task.method.at(0))
        gradient = torch.autograd.grad(losses["objective"], parameters)
        gradients.append(torch.cat([part.flatten() for part in gradient]).double())
        if task.method.ratio is not None:
            task.method.ratio.commit(lambda total: total)
    stacked = torch.stack(gradients)
    variance = stacked.var(0).sum()
    squared_mean = stacked.mean(0).square().sum() - variance / BATCHES
    return float(variance / squared_mean.clamp_min(1e-12))


def load_task(folder: Path, objective: str) -> Distillation:
    """Load a run's last checkpoint with another objective. Its batches are none that it was trained on."""
    import torch

    from distill.networks.folder import newest_checkpoint
    from distill.storage.tensors import load_weights
    from distill.training.config import read_config
    from distill.training.distillation.task import Distillation
    from distill.training.logging import Clock
    from distill.training.parallel.processes import Processes
    from distill.training.settings import DistillRun

    config = read_config(folder / "config.yaml", ["--objective", objective])
    checkpoint = newest_checkpoint(folder)
    assert isinstance(config, DistillRun)
    assert checkpoint is not None
    task = Distillation(config, Processes(torch.device("cpu")), Clock())
    for name, module in task.modules.items():
        load_weights(module, checkpoint / f"{name}.safetensors")
    task.start(10**6)
    return task


def render(results: Mapping[str, Any]) -> dict[Block, str]:
    """Return the generated block of each scene with its text: two tables."""
    texts = {}
    for scene, result in results.items():
        comparisons = compare_estimators(scene, result["runs"])
        cells = table(scene, result["runs"], result["noise"])
        texts[Block(PAGE, f"study {scene}")] = f"{comparisons}\n\n{cells}"
    return texts


def compare_estimators(scene: str, rows: list[Row]) -> str:
    """Compare each two estimators at the same divergences and seeds, as Markdown."""
    measure = SCENES[scene].measures[0]
    values = {(row["divergence"], row["estimator"], row["seed"]): row[measure] for row in rows}
    lines = []
    for one, other in (("exact", "matching"), ("published", "matching"), ("exact", "published")):
        gaps = []
        for (divergence, estimator, seed), value in values.items():
            other_value = values[divergence, other, seed]
            if estimator == one and value is not None and other_value is not None:
                gaps.append(value - other_value)
        error = statistics.stdev(gaps) / len(gaps) ** 0.5
        mean = f"{statistics.mean(gaps):+.4f} ± {error:.4f}"
        better = sum(gap < 0 for gap in gaps)
        lines.append([one, other, mean, f"{statistics.median(gaps):+.4f}", f"{better} of {len(gaps)}"])
    head = ["estimator", "against", f"{measure}, mean ± standard error", "median", "better"]
    return markdown_table(head, lines)


def table(scene: str, rows: list[Row], noises: list[Row]) -> str:
    """Return the metrics and the gradient noise of every divergence and estimator, as Markdown."""
    measures = SCENES[scene].measures
    noise = {(row["divergence"], row["estimator"]): row["noise"] for row in noises}
    lines = []
    for divergence, estimator in itertools.product(DIVERGENCES, ESTIMATORS):
        chosen = [row for row in rows if (row["divergence"], row["estimator"]) == (divergence, estimator)]
        cells = [measure_cell(row[name] for row in chosen) for name in measures]
        lines.append([f"`{divergence}`", estimator, *cells, f"{noise[divergence, estimator]:.3g}"])
    return markdown_table(["divergence", "estimator", *measures, "gradient noise"], lines)


def measure_cell(values: Iterable[float | None]) -> str:
    """Return mean and standard deviation of the runs that did not stop, or "stopped"."""
    finite = [value for value in values if value is not None]
    return mean_and_std(finite) if finite else "stopped"


def draw(scene: str, rows: list[Row], path: Path) -> None:
    """Plot the first measure of each run by divergence and estimator.

    Values beyond three times the median stand at the upper edge as numbers.
    """
    from matplotlib.figure import Figure

    measure = SCENES[scene].measures[0]
    known = [row[measure] for row in rows if row[measure] is not None]
    top = min(3 * statistics.median(known), 1.05 * max(known))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    for estimator in ESTIMATORS:
        points = [
            (DIVERGENCES.index(row["divergence"]), row[measure])
            for row in rows
            if row["estimator"] == estimator and row[measure] is not None
        ]
        draw_estimator(axes, estimator, points, top)
    labels = [name.replace("+", "\n+") for name in DIVERGENCES]
    axes.set_ylim(top=top)
    axes.set_xticks(range(len(DIVERGENCES)), labels, rotation=25, ha="right", fontsize=8)
    axes.set_ylabel(f"{measure} (lower is better)")
    axes.set_title(f"{scene}: final distance from the teacher, three seeds", fontsize=10, pad=12)
    axes.grid(axis="y", color="#e6e9ee")
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=110)


def draw_estimator(axes: Any, estimator: str, points: list[tuple[int, float]], top: float) -> None:
    """Plot the values of one estimator, each at the index of its divergence."""
    shift, colour, side = MARKS[estimator]
    inside = [(index + shift, value) for index, value in points if value <= top]
    axes.scatter([x for x, _ in inside], [y for _, y in inside], s=22, color=colour, label=estimator)
    for index in sorted({index for index, value in points if value > top}):
        beyond = "\n".join(f"{value:.2g}" for other, value in points if other == index and value > top)
        axes.plot(index + shift, top, "^", color=colour, clip_on=False)
        axes.text(index + shift, 0.97 * top, beyond, ha=side, va="top", fontsize=7, color=colour)


if __name__ == "__main__":
    main(sys.argv[1:])
