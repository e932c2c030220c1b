"""Measure the peak memory and the time of a training step: `python benchmarks/memory.py`.

A step is DMD2's: one update of the fake score and its discriminator, and one of the generator. It is measured
in four variants, each in a process of its own: all weights or adapters are trained, with activation
checkpointing and without. The results also have the dry run's predictions.

The default is SDXL with sizes that suit a CPU. `--config sdxl` has SDXL's own sizes and needs a GPU: U-Net,
autoencoder and text encoders with random weights, 1024x1024 pixels, one image at a time, frozen weights in
bfloat16. Writes benchmarks/results/memory.json and the table in docs/diffusers.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import project
from benchmarks.document import Block, markdown_table
from benchmarks.project import ROOT, argument_parser, run_python
from benchmarks.random_pipelines import SDXL, TINY, RandomTeacher, register_tiny_pipeline
from distill.storage.files import read_json, write_json
from distill.storage.provenance import commit, machine
from distill.training.distillation.task import Distillation
from distill.training.dry_run.cost import measure_both
from distill.training.dry_run.distillation import simulate_distillation
from distill.training.dry_run.step import META
from distill.training.launch import build_processes
from distill.training.logging import Clock
from distill.training.settings import DistillRun

RESULTS = project.RESULTS / "memory.json"
BLOCK = Block(ROOT / "docs" / "diffusers.md", "memory")
MIB = 2**20
STEPS = 3


@dataclasses.dataclass(frozen=True)
class Setup:
    """The teacher and the settings of a step that is measured."""

    path: str
    dtype: str
    precision: str
    batch_size: int
    rank: int
    device: str


SETUPS = {
    "tiny": Setup(TINY, "float32", "fp32", batch_size=4, rank=16, device="cpu"),
    "sdxl": Setup(SDXL, "bfloat16", "bf16", batch_size=1, rank=64, device="cuda"),
}
LABELS = {"tiny": "SDXL's kind, small", "sdxl": "SDXL, 1024x1024"}
STUDENTS = {"copy": "all weights", "lora": "adapters"}
"""Kinds of students, and what the table says that they train."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to take the step."""

    student: str
    is_checkpointed: bool


VARIANTS = [Variant(student, is_checkpointed) for student in STUDENTS for is_checkpointed in (False, True)]


def main(arguments: list[str]) -> None:
    options = parse(arguments)
    register_tiny_pipeline()
    if options.way:
        print(json.dumps(run(options.config, Variant(options.way, options.checkpointing))))
        return
    predictions = predict(options.config)
    rows = []
    for variant in VARIANTS:
        row: dict[str, Any] = {
            "way": variant.student,
            "activation checkpointing": variant.is_checkpointed,
            "predicted": predictions[variant],
        }
        if not options.predict and variant.student in options.ways:
            row |= run_in_own_process(options.config, variant)
        print(row, flush=True)
        rows.append(row)
    conditions = {
        "machine": machine(),
        "commit": commit(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "sizes in": "MiB",
    }
    settings = dataclasses.asdict(SETUPS[options.config])
    results = read_json(RESULTS) if RESULTS.is_file() else {}
    results[options.config] = {"conditions": conditions, "settings": settings, "ways": rows}
    write_json(RESULTS, results)
    for block, text in render(results).items():
        block.write(text)
        print(text)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line. `--way` and `--checkpointing` name the variant of a process of its own."""
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--config", choices=SETUPS, default="tiny", help="tiny for CPUs, or sdxl for a GPU (default: tiny)"
    )
    parser.add_argument(
        "--predict", action="store_true", help="predict only; earlier measurements become `not run`"
    )
    parser.add_argument(
        "--ways",
        nargs="+",
        choices=STUDENTS,
        default=tuple(STUDENTS),
        help="students to measure: copy trains all weights, lora trains adapters (default: both)",
    )
    parser.add_argument("--way", choices=STUDENTS, help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def config_of(setup: Setup, variant: Variant, folder: Path) -> DistillRun:
    """Configure DMD2 on the teacher's own samples, which needs no data."""
    (folder / "prompts.txt").write_text("a prompt")
    network: dict[str, Any] = {"name": variant.student}
    if variant.student == "lora":
        network["rank"] = setup.rank
    return DistillRun.model_validate(
        {
            "task": "distill",
            "run_dir": folder / "run",
            "steps": STEPS,
            "batch_size": setup.batch_size,
            "precision": setup.precision,
            "device": setup.device,
            "teacher": RandomTeacher(path=setup.path, dtype=setup.dtype),
            "prompts": {"name": "text_file", "path": folder / "prompts.txt"},
            "teacher_samples": {"path": folder / "samples", "count": 1, "sampler": {"steps": 1}},
            "activation_checkpointing": variant.is_checkpointed,
            "generator": {"network": network, "init_noise_to_signal": 1.16},
            "fake": {"network": network},
            "objective": {"name": "distribution_matching", "divergence": "reverse_kl"},
            "guidance": {"teacher": 8.0},
            "discriminator": {"reads": "fake", "real": "teacher"},
            "terms": [{"name": "gan", "weight": 5e-3}],
        }
    )


def predict(name: str) -> dict[Variant, float]:
    """Return the peak memory of a step that the dry run predicts for each variant, in MiB."""
    predictions = {}
    with tempfile.TemporaryDirectory() as folder:
        for student in STUDENTS:
            config = config_of(SETUPS[name], Variant(student, False), Path(folder))
            teacher = config.teacher.meta().eval().requires_grad_(False)
            simulated = simulate_distillation(config, teacher, META)
            costs = measure_both(student, simulated, config).values()
            for is_checkpointed, cost in zip((False, True), costs, strict=True):
                added = max(size for update, size in cost.added.items() if update in simulated.updates)
                peak = sum(cost.held.values()) + added
                predictions[Variant(student, is_checkpointed)] = peak / MIB
    return predictions


def run_in_own_process(name: str, variant: Variant) -> dict[str, float]:
    """Call `run` in a process of its own."""
    checkpointing = ["--checkpointing"] if variant.is_checkpointed else []
    output = run_python(__file__, "--config", name, "--way", variant.student, *checkpointing)
    return json.loads(output.splitlines()[-1])


def run(name: str, variant: Variant) -> dict[str, float]:
    """Take some steps; return the peak memory of torch's allocator, in MiB, and the seconds of a step.

    The process must have allocated nothing before.
    """
    with tempfile.TemporaryDirectory() as folder:
        config = config_of(SETUPS[name], variant, Path(folder))
        processes = build_processes(config)

        def begin() -> Distillation:
            task = Distillation(config, processes, Clock())
            task.start(0)
            for step in range(STEPS):
                task.update(step, detailed=False)
            return task

        is_on_gpu = processes.device.type == "cuda"
        task, peaks = measure_on_gpu(begin) if is_on_gpu else measure_on_cpu(begin)
        seconds = [measure_time(task, step, is_on_gpu) for step in range(STEPS, 2 * STEPS)]
        return {kind: size / MIB for kind, size in peaks.items()} | {"seconds": min(seconds)}


def measure_on_gpu(begin: Callable[[], Distillation]) -> tuple[Distillation, dict[str, int]]:
    """Begin; return the peak bytes in tensors, and the peak bytes that the allocator reserved for them."""
    task = begin()
    peaks = {"measured": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return task, peaks


def measure_on_cpu(begin: Callable[[], Distillation]) -> tuple[Distillation, dict[str, int]]:
    """Begin; return the peak bytes in tensors, summed over the allocations that torch's profiler records."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        task = begin()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return task, {"measured": max(itertools.accumulate(event.nbytes() for event in events))}


def measure_time(task: Distillation, step: int, is_on_gpu: bool) -> float:
    """Return the seconds of a step: of the clock on a GPU, of the processor elsewhere."""
    if not is_on_gpu:
        start = time.process_time()
        task.update(step, detailed=False)
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    task.update(step, detailed=False)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def render(results: Mapping[str, Any]) -> dict[Block, str]:
    """Return the generated block with its text: a table of all results."""
    head = ["network", "what learns", "activation checkpointing"]
    head += ["predicted, GiB", "measured, GiB", "time of a step"]
    lines = []
    for name, result in results.items():
        reference = result["ways"][0].get("seconds")
        lines += [table_row(name, row, reference) for row in result["ways"]]
    return {BLOCK: markdown_table(head, lines)}


def table_row(name: str, row: Mapping[str, Any], reference: float | None) -> list[str]:
    """Return a variant's row of the table.

    Times on a CPU are relative to `reference`, the first variant's seconds.
    """
    measured = f"{row['measured'] / 1024:.2f}" if "measured" in row else "not run"
    if "seconds" not in row:
        duration = "not run"
    elif SETUPS[name].device == "cuda":
        duration = f"{row['seconds']:.2f} s"
    else:
        duration = f"{row['seconds'] / reference:.2f}"
    return [
        LABELS[name],
        STUDENTS[row["way"]],
        "yes" if row["activation checkpointing"] else "no",
        f"{row['predicted'] / 1024:.2f}",
        measured,
        duration,
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
