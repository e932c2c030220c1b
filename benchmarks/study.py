"""Which divergence, which estimator, and does the exact gradient pay? `python benchmarks/study.py [--scenes ring far_modes digits] [--jobs 2]`.

Distils every scene with every divergence by every estimator, three seeds each, all else equal, and evaluates each student. Beside that it measures
the noise of each gradient at one and the same student. Writes benchmarks/results/study.json, a picture for each scene, and the tables between the
markers in docs/methods.md. Finished runs under runs/study are not repeated, so it may be interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from distill.config.errors import TrainingError  # noqa: E402
from distill.storage.files import read_json, write_json, write_text  # noqa: E402
from distill.storage.provenance import commit, machine  # noqa: E402
from eval.__main__ import main as evaluate  # noqa: E402
from train import main as train  # noqa: E402

RUNS, RESULTS, PAGE = (
    ROOT / "runs" / "study",
    ROOT / "benchmarks" / "results" / "study.json",
    ROOT / "docs" / "methods.md",
)
DIVERGENCES = (
    "reverse_kl", "softened_reverse_kl", "jensen_shannon", "squared_hellinger", "jeffreys", "forward_kl", "pearson_chi2", "neyman_chi2",
    "0.4*forward_kl+0.6*reverse_kl",
)  # fmt: skip
ESTIMATORS = {
    "matching": "name: distribution_matching",
    "exact": "name: expanded_divergence, estimator: exact",
    "published": "name: expanded_divergence, estimator: published",
}
EXACT = ("jensen_shannon", "forward_kl", "reverse_kl", "mode_error", "stray")
SCENES = {
    "ring": ("configs/lab/exact_ring.yaml", 500, "prediction", EXACT),
    "far_modes": ("configs/lab/exact_far_modes.yaml", 500, "prediction", EXACT),
    "digits": (
        "configs/digits/uni_instruct.yaml",
        200,
        "dmd",
        ("fd_pixel", "precision", "recall", "label_agreement"),
    ),
}
"""Preset that is varied, its steps here, weighting (the exact one where dimensions are few), and what is measured, the first of which is plotted."""
REFERENCE = ["--seed", "100"]
"""The student at which the noise of the gradients is compared: the preset's own, with a seed of its own."""
BATCHES = 64


def objective(scene: str, divergence: str, estimator: str) -> str:
    """The setting, as YAML."""
    return f"{{{ESTIMATORS[estimator]}, divergence: '{divergence}', weighting: {SCENES[scene][2]}}}"


def run(scene: str, divergence: str, estimator: str, seed: int) -> dict[str, Any]:
    """Distil and evaluate one student; returns its numbers, all null where training stopped because a loss was not finite."""
    folder = RUNS / scene / f"{divergence}-{estimator}-{seed}"
    row: dict[str, Any] = {"scene": scene, "divergence": divergence, "estimator": estimator, "seed": seed}
    if not (folder / "eval.json").is_file():
        try:
            distil(scene, folder, "--seed", str(seed), "--objective", objective(scene, divergence, estimator))
        except TrainingError:
            return {**row, "stopped": True, **dict.fromkeys(SCENES[scene][3])}
        evaluate(["--run", str(folder), *(["--no-teacher"] if scene == "digits" else [])])
    student = read_json(folder / "eval.json")["student"]
    return {**row, "stopped": False, **{name: student[name] for name in SCENES[scene][3]}}


def distil(scene: str, folder: Path, *settings: str) -> None:
    """Train a scene's preset, varied by these settings. Raises TrainingError where a loss is not finite."""
    config, steps, _, _ = SCENES[scene]
    train([config, "--run_dir", str(folder), "--steps", str(steps), *settings])


def noise(scene: str, divergence: str, estimator: str) -> dict[str, Any]:
    """Relative noise of a gradient at the scene's reference student."""
    found = gradient_noise(RUNS / scene / "reference", objective(scene, divergence, estimator))
    return {"scene": scene, "divergence": divergence, "estimator": estimator, "noise": found}


def gradient_noise(folder: Path, setting: str) -> float:
    """E|g - E g|^2 / |E g|^2 of the objective's gradient in the weights of a run's last student, over batches of its size."""
    import torch
    from accelerate import Accelerator

    from distill.networks.folder import newest_checkpoint
    from distill.storage.tensors import load_weights
    from distill.training.config import read_config
    from distill.training.distillation.losses import frozen, generator_loss
    from distill.training.distillation.task import Distillation
    from distill.training.logging import Clock
    from distill.training.settings import DistillRun

    config, checkpoint = (
        read_config(folder / "config.yaml", ["--objective", setting]),
        newest_checkpoint(folder),
    )
    assert isinstance(config, DistillRun)
    assert checkpoint is not None
    task = Distillation(config, Accelerator(cpu=True), Clock())
    for name, module in task.modules.items():
        load_weights(module, checkpoint / f"{name}.safetensors")
    task.start(10**6)
    weights, gradients = list(task.generator.parameters()), []
    for batch in itertools.islice(task.stream, BATCHES):
        with frozen(*[module for name, module in task.modules.items() if name != "generator"]):
            losses, _ = generator_loss(
                task.networks, task.method, batch, task.generator(batch.z, batch.cond), 0
            )
        gradients.append(
            torch.cat([part.flatten() for part in torch.autograd.grad(losses["objective"], weights)]).double()
        )
        if task.method.ratio is not None:
            task.method.ratio.commit(lambda total: total)
    every = torch.stack(gradients)
    variance = every.var(0).sum()
    return float(variance / (every.mean(0).square().sum() - variance / BATCHES).clamp_min(1e-12))


def start_worker() -> None:
    """In the project's folder, and silent but for errors."""
    os.chdir(ROOT)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives


def spread(values: Iterable[float | None]) -> str:
    """Mean ± sample standard deviation of the runs that did not stop."""
    there = [value for value in values if value is not None]
    if not there:
        return "stopped"
    deviation = f" ± {statistics.stdev(there):.3f}" if len(there) > 1 else ""
    return f"{statistics.mean(there):.3f}{deviation}"


def table(scene: str, rows: list[dict[str, Any]], noise: list[dict[str, Any]]) -> str:
    """Every divergence and estimator of a scene, as Markdown."""
    measures = SCENES[scene][3]
    lines = [
        f"| divergence | estimator | {' | '.join(measures)} | gradient noise |",
        "|---" * (len(measures) + 3) + "|",
    ]
    for divergence, estimator in itertools.product(DIVERGENCES, ESTIMATORS):
        chosen = [row for row in rows if (row["divergence"], row["estimator"]) == (divergence, estimator)]
        cells = [spread(row[name] for row in chosen) for name in measures]
        noisy = next(
            row["noise"] for row in noise if (row["divergence"], row["estimator"]) == (divergence, estimator)
        )
        lines.append(f"| `{divergence}` | {estimator} | {' | '.join(cells)} | {noisy:.3g} |")
    return "\n".join(lines)


def comparisons(scene: str, rows: list[dict[str, Any]]) -> str:
    """Each two estimators at the same divergences and seeds, as Markdown."""
    measure = SCENES[scene][3][0]
    found = {(row["divergence"], row["estimator"], row["seed"]): row[measure] for row in rows}
    lines = [
        f"| estimator | against | {measure}, mean ± standard error | median | better |",
        "|---" * 5 + "|",
    ]
    for one, other in (("exact", "matching"), ("published", "matching"), ("exact", "published")):
        pairs = [
            (value, found[divergence, other, seed])
            for (divergence, estimator, seed), value in found.items()
            if estimator == one
        ]
        gaps = [mine - its for mine, its in pairs if mine is not None and its is not None]
        error = statistics.stdev(gaps) / len(gaps) ** 0.5
        better = f"{sum(gap < 0 for gap in gaps)} of {len(gaps)}"
        lines.append(
            f"| {one} | {other} | {statistics.mean(gaps):+.4f} ± {error:.4f} | {statistics.median(gaps):+.4f} | {better} |"
        )
    return "\n".join(lines)


def picture(scene: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Each seed's first measure, by divergence and estimator. What is beyond three times the median stands at the edge, with its value."""
    from matplotlib.figure import Figure

    measure = SCENES[scene][3][0]
    known = [row[measure] for row in rows if row[measure] is not None]
    top = min(3 * statistics.median(known), 1.05 * max(known))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots()
    looks = zip(
        ESTIMATORS,
        (-0.22, 0, 0.22),
        ("#2a6fbb", "#c8551b", "#7a828e"),
        ("right", "center", "left"),
        strict=True,
    )
    for estimator, shift, colour, side in looks:
        points = [
            (DIVERGENCES.index(row["divergence"]) + shift, row[measure])
            for row in rows
            if row["estimator"] == estimator
        ]
        inside = [(x, y) for x, y in points if y is not None and y <= top]
        axes.scatter([x for x, _ in inside], [y for _, y in inside], s=22, color=colour, label=estimator)
        for x in sorted({x for x, y in points if y is not None and y > top}):
            beyond = "\n".join(f"{y:.2g}" for other, y in points if other == x and y is not None and y > top)
            axes.plot(x, top, "^", color=colour, clip_on=False)
            axes.text(x, 0.97 * top, beyond, ha=side, va="top", fontsize=7, color=colour)
    axes.set_ylim(top=top)
    axes.set_xticks(
        range(len(DIVERGENCES)),
        [name.replace("+", "\n+") for name in DIVERGENCES],
        rotation=25,
        ha="right",
        fontsize=8,
    )
    axes.set_ylabel(f"{measure} (lower is better)")
    axes.set_title(f"{scene}: final distance from the teacher, three seeds", fontsize=10, pad=12)
    axes.grid(axis="y", color="#e6e9ee")
    axes.set_axisbelow(True)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=110)


def write_page(scene: str, content: str) -> None:
    """Replace what stands between the scene's markers."""
    text = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- study {scene}: begin -->", f"<!-- study {scene}: end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    write_text(PAGE, f"{before}{begin}\n{content}\n{end}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--scenes", nargs="+", choices=SCENES, default=list(SCENES), help="scenes to run (default: all)"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of each (default: 0 1 2)"
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="processes side by side, one thread each (default: 2)"
    )
    options = parser.parse_args()
    results = read_json(RESULTS) if RESULTS.is_file() else {}
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), start_worker) as pool:
        for scene in options.scenes:
            cells = [(scene, divergence, estimator) for divergence in DIVERGENCES for estimator in ESTIMATORS]
            if not (RUNS / scene / "reference" / "export").is_dir():
                pool.submit(distil, scene, RUNS / scene / "reference", *REFERENCE).result()
            rows = list(
                pool.map(run, *zip(*[(*cell, seed) for seed in options.seeds for cell in cells], strict=True))
            )
            noises = list(pool.map(noise, *zip(*cells, strict=True)))
            results[scene] = {"machine": machine(), "commit": commit(), "runs": rows, "noise": noises}
            write_json(RESULTS, results)
            picture(scene, rows, RESULTS.parent / f"study_{scene}.png")
            write_page(scene, f"{comparisons(scene, rows)}\n\n{table(scene, rows, noises)}")
            print(json.dumps({"scene": scene, "runs": len(rows)}))


if __name__ == "__main__":
    main()
