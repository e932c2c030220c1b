"""Measure the parts of the gradient at each noise level: `python benchmarks/gradient_parts.py`.

Trains two students by Uni-Instruct for a few hundred steps: an affine one of a ring of Gaussians, whose
scores and density ratio are exact, and one of the digits, whose fake score and discriminator are trained. For
each level and each part of the gradient of forward KL, prints the length of its mean and the standard
deviation of the estimate of one batch, with independent noise and with pairs of opposite noise, and how good
ratio and fake score are there. Then trains students of the digits at levels down to 0.02 with and without the
part `ratio`. Writes benchmarks/results/gradient_parts.json and the tables in docs/methods.md. Finished runs
under runs/gradient-parts are not repeated.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import project
from benchmarks.document import Block, markdown_table, mean_and_std
from benchmarks.project import ROOT, SEEDS, argument_parser, run_python
from benchmarks.study import load_task
from distill.storage.files import read_json, write_json
from distill.storage.provenance import commit, machine

if TYPE_CHECKING:
    from torch import Tensor

    from distill.training.batches import Batch
    from distill.training.distillation.task import Distillation
    from distill.types import Scores

RUNS = project.RUNS / "gradient-parts"
RESULTS = project.RESULTS / "gradient_parts.json"
PAGE = ROOT / "docs" / "methods.md"
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 2.0, 5.0)
PARTS = ("sim", "ratio")
"""Parts of the gradient of forward KL; the other two are absent."""
Row = dict[str, Any]
"""The results of one level."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """One student at which gradients are measured."""

    preset: str
    settings: tuple[str, ...]
    """Settings of its training that differ from the preset's."""
    weighting: str
    batches: int


SCENES = {
    "ring": Scene(
        "configs/lab/exact_ring.yaml",
        ("--generator.network", "{name: affine}", "--steps", "200", "--batch_size", "64"),
        "prediction",
        256,
    ),
    "digits": Scene("configs/digits/uni_instruct.yaml", ("--steps", "300"), "dmd", 8),
}


LOW_LEVELS = (
    "--generator.noise_levels.stop",
    "1.0",
    "--fake.noise_levels",
    "{name: lognormal, mean: -0.6, std: 1.2}",
)
"""Levels of the generator from 4 down to 0.02, and levels of fake score and discriminator that cover them."""
VARIANTS: dict[str, tuple[str, ...]] = {
    "down to 0.46, as the preset": (),
    "down to 0.02": LOW_LEVELS,
    "down to 0.02, `ratio: 0`": (*LOW_LEVELS, "--objective.ratio", "0"),
}
"""Settings of the students that are compared, by what the table says of them."""
STEPS = 300


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--scenes", nargs="*", choices=SCENES, default=list(SCENES), help="scenes to measure (default: all)"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=SEEDS, help="seeds of the compared students (default: 0 1 2)"
    )
    options = parser.parse_args(arguments)
    results = read_json(RESULTS) if RESULTS.is_file() else {}
    for scene in options.scenes:
        results[scene] = run_scene(scene)
        write_json(RESULTS, results)
    students = [compare(name, seed) for name in VARIANTS for seed in options.seeds]
    if students:
        results["students"] = {"machine": machine(), "commit": commit(), "runs": students}
        write_json(RESULTS, results)
    for block, text in render(results).items():
        block.write(text)
        print(text)


def run_scene(name: str) -> dict[str, Any]:
    """Train the student of a scene, and measure its gradients at all levels."""
    scene, folder = SCENES[name], RUNS / name
    if not (folder / "export").is_dir():
        run_python("train.py", scene.preset, "--run_dir", str(folder), *scene.settings, threads=1)
    objective = f"{{name: expanded_divergence, divergence: forward_kl, weighting: {scene.weighting}}}"
    task = load_task(folder, objective)
    rows = []
    for level in LEVELS:
        rows.append({"level": level, **measure(task, level, scene)})
        print(json.dumps(rows[-1]), flush=True)
    return {"machine": machine(), "commit": commit(), "batches": scene.batches, "levels": rows}


def compare(variant: str, seed: int) -> Row:
    """Train a student of the digits, and return its distance and the mean norm of its last gradients.

    The distances are those of the run's monitor, every 100 steps, with 2 000 images.
    """
    folder = RUNS / f"{list(VARIANTS).index(variant)}-{seed}"
    settings = ("--steps", str(STEPS), "--seed", str(seed), "--monitor_every", "100", *VARIANTS[variant])
    if not (folder / "export").is_dir():
        preset = SCENES["digits"].preset
        run_python("train.py", preset, "--run_dir", str(folder), *settings, threads=1)
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    distances = [line["monitor/fd_pixel"] for line in lines if "monitor/fd_pixel" in line]
    return {
        "variant": variant,
        "seed": seed,
        "fd_pixel_before": distances[-2],
        "fd_pixel": distances[-1],
        "gradient_norm": lines[-1]["grad_norm/generator"],
    }


def measure(task: Distillation, level: float, scene: Scene) -> Row:
    """Return the statistics of one level."""
    import torch

    from distill.training.distillation.losses import frozen

    gradients: dict[str, list[list[Tensor]]] = {part: [] for part in PARTS}
    qualities: list[dict[str, float]] = []
    others = [module for name, module in task.modules.items() if name != "generator"]
    with frozen(*others):
        for batch in itertools.islice(task.stream, scene.batches):
            x0 = task.generator(batch.z, batch.cond)
            views = []
            for eps in (batch.eps, -batch.eps, batch.eps_fake):
                scores, quality = observe(task, batch, x0, eps, level)
                views.append(part_gradients(task, scores, scene.weighting))
                qualities.append(quality)
            for part in PARTS:
                gradients[part].append([view[part] for view in views])
    row: Row = {part: statistics_of(torch.stack([torch.stack(v) for v in gradients[part]])) for part in PARTS}
    means = {name: torch.tensor([q[name] for q in qualities]).mean().item() for name in qualities[0]}
    return row | means


def observe(
    task: Distillation, batch: Batch, x0: Tensor, eps: Tensor, level: float
) -> tuple[Scores, dict[str, float]]:
    """Return the scores of student samples with this noise at a level, and how good the estimates are."""
    import torch

    from distill.types import Scores, expand_like

    networks, config = task.networks, task.config
    schedule = networks.teacher.schedule
    t = schedule.t(torch.full((len(x0),), level))
    alpha, sigma = expand_like(schedule.alpha(t), x0), expand_like(schedule.sigma(t), x0)
    x_t = alpha * x0 + sigma * eps
    teacher = networks.predict(networks.teacher, x_t, t, batch.cond, 1.0)
    fake = networks.predict(networks.fake, x_t, t, batch.cond, 1.0)
    logits = fake.logits if teacher.logits is None else teacher.logits
    assert logits is not None
    assert config.ratio is not None
    logit = logits.detach().flatten(1).mean(1) if logits.dim() > 1 else logits.detach()
    low, high = config.ratio.low, config.ratio.high
    r = logit.exp().clamp(low, high)
    log_ratio = (r / r.mean()).log()
    quality = {
        "log_ratio_mean": logit.mean().item(),
        "log_ratio_std": logit.std().item(),
        "clamped": ((logit.exp() < low) | (logit.exp() > high)).double().mean().item(),
        "squared_gap": (teacher.x0 - fake.x0).detach().square().flatten(1).sum(1).mean().item(),
        "teacher_error": (teacher.x0 - x0).detach().square().mean().item(),
        "fake_error": (fake.x0 - x0).detach().square().mean().item(),
    }
    return Scores(x0, x_t, alpha, sigma, teacher.x0, fake.x0, log_ratio), quality


def part_gradients(task: Distillation, scores: Scores, weighting: Any) -> dict[str, Tensor]:
    """Return the gradient of each part with respect to the student's parameters, (n,)."""
    import torch

    from distill.divergences import parse
    from distill.objectives import Parts, expanded_divergence

    found = {}
    for part in PARTS:
        parts = Parts(**{other: float(other == part) for other in ("sim", "fisher", "di", "ratio")})
        output = expanded_divergence(scores, parse("forward_kl"), parts, weighting)
        loss = output.loss.mean() / scores.x0[0].numel()
        gradient = torch.autograd.grad(loss, list(task.generator.parameters()), retain_graph=True)
        found[part] = torch.cat([piece.flatten() for piece in gradient])
    return found


def statistics_of(gradients: Tensor) -> dict[str, float]:
    """Return the length of the mean and the standard deviations of gradients (batches, 3, n).

    The three are those of noise, of the opposite noise and of other noise on the same samples. The squared
    length is that of the mean of all, less the variance of that mean.
    """
    pooled = gradients.mean(1)
    squared = pooled.mean(0).square().sum() - pooled.var(0).sum() / len(pooled)
    estimates = {
        "single": gradients[:, 0],
        "antithetic": gradients[:, :2].mean(1),
        "independent": gradients[:, 1:].mean(1),
    }
    deviations = {name: float(values.var(0).sum().sqrt()) for name, values in estimates.items()}
    return {"mean": float(squared.clamp_min(0).sqrt()), **deviations}


def render(results: Mapping[str, Any]) -> dict[Block, str]:
    """Return the generated blocks with their texts: a table over levels for each scene, and the students."""
    blocks = {
        Block(PAGE, f"gradient parts {name}"): table(results[name]) for name in SCENES if name in results
    }
    if "students" in results:
        blocks[Block(PAGE, "gradient parts students")] = students_table(results["students"]["runs"])
    return blocks


def students_table(rows: list[Row]) -> str:
    """Return the distances of the students as Markdown."""
    measures = ("fd_pixel_before", "fd_pixel", "gradient_norm")
    lines = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        chosen = [row for row in rows if row["variant"] == variant]
        cells = [mean_and_std([row[name] for row in chosen], ".2f") for name in measures]
        lines.append([variant, *cells, str(len(chosen))])
    head = ["levels", "fd-pixel after 200 steps", "after 300", "gradient norm", "seeds"]
    return markdown_table(head, lines)


def table(result: Mapping[str, Any]) -> str:
    """Return the statistics of every level as Markdown."""
    head = ["level"]
    for part in PARTS:
        head += [f"`{part}`: mean", "one noise", "two noises", "opposite noises"]
    head += ["change of log r over the noise", "log r of the ratio", "log r by the scores"]
    rows = []
    for row, log_ratio in zip(result["levels"], log_ratios(result["levels"]), strict=True):
        cells = [f"{row['level']:g}"]
        for part in PARTS:
            cells += [f"{row[part][name]:.2g}" for name in ("mean", "single", "independent", "antithetic")]
        cells.append(f"{row['squared_gap'] ** 0.5 / row['level']:.2g}")
        cells.append(f"{row['log_ratio_mean']:.2f} ± {row['log_ratio_std']:.2f}")
        cells.append(f"{log_ratio:.2f}")
        rows.append(cells)
    return markdown_table(head, rows)


def log_ratios(rows: list[Row]) -> list[float]:
    """Return the mean of log p_t/q_t under the student at each level, by the expansion of reverse KL.

    It is minus the integral of E_q|d|^2 / sigma^2 over log sigma from the level up to the highest one, by the
    trapezoid rule.
    """
    means, total = [0.0], 0.0
    for low, high in reversed(list(itertools.pairwise(rows))):
        heights = [row["squared_gap"] / row["level"] ** 2 for row in (low, high)]
        total -= sum(heights) / 2 * math.log(high["level"] / low["level"])
        means.insert(0, total)
    return means


if __name__ == "__main__":
    main(sys.argv[1:])
