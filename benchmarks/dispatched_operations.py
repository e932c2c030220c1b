"""Count what torch dispatches in a step: `python benchmarks/dispatched_operations.py --label after`.

On a GPU the step of a small network takes as long as its launches. A step of each run is counted on the CPU,
by its parts: all operations, those that compute (views and new empty tensors do not), and reads of values,
for which the CPU would wait for a GPU. The SDXL runs have all layers of the network and few channels. The
script also counts the bytes of random numbers that one of several processes draws for a batch.

With PYTHONPATH set to another checkout it counts that one's steps, by its presets. The results become the
label's entry in benchmarks/results/dispatched_operations.json, and the table in docs/speed.md; or they become
the entry in the file that `--out` names.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1]))  # behind PYTHONPATH, which may name another checkout

from benchmarks.counting import LATE, Counter, count_batch
from benchmarks.document import Block, markdown_table
from benchmarks.project import ROOT, argument_parser
from benchmarks.random_pipelines import RandomTeacher
from benchmarks.random_teachers import (
    CIFAR10,
    DEEP,
    RandomEDM,
    register_deep_pipeline,
    write_captioned_images,
    write_random_images,
)
from benchmarks.steps import Enough, Update, make_steps
from distill.config.errors import UserError
from distill.storage.files import read_json, write_json
from distill.storage.provenance import commit, machine
from distill.training.config import read_config
from distill.training.distillation.task import Distillation
from distill.training.settings import RunConfig

RESULTS = Path(__file__).parent / "results" / "dispatched_operations.json"
BLOCK = Block(Path(__file__).parents[1] / "docs" / "speed.md", "dispatched operations")
COUNTED_STEP = 2
"""The steps before make what is made once, such as the optimisers' state."""
PROCESSES = (1, 8, 64)
LABELS = ("before", "after")
FROM_THE_START = ("--fake.warmup_steps", "0", "--device", "cpu", "--log_every", "1000")
SDXL = ("--batch_size", "1", "--data.resolution", "64", "--prompts.cache", "null")
"""Overrides of a step on one image; the narrow network makes images of 64x64."""
EDM = ("--batch_size", "2", "--precision", "fp32")
"""Overrides of a step on two images: the same work for every checkout, whatever its presets choose."""
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "digits, uni_instruct": ("digits/uni_instruct", ()),
    "CIFAR-10 size, f_distill": ("cifar10/f_distill_cond", (*EDM, "--discriminator.r1.approximate", "false")),
    "CIFAR-10 size, f_distill, approximate R1": (
        "cifar10/f_distill_cond",
        (*EDM, "--discriminator.r1.approximate", "true"),
    ),
    "CIFAR-10 size, sid": ("cifar10/sid_cond", EDM),
    "SDXL, dmd2_lora": ("sdxl/dmd2_lora", (*SDXL, "--precision", "bf16")),
    "SDXL, dmd2_lora, bf16-true": ("sdxl/dmd2_lora", (*SDXL, "--precision", "bf16-true")),
}
"""Presets and overrides of the runs whose step is counted, by name."""
DRAWN = {
    "CIFAR-10 size, batch of 2048": ((3, 32, 32), 2048),
    "ImageNet-64 size, batch of 8192": ((3, 64, 64), 8192),
}
"""Shapes of images, and numbers of them in a batch, that are drawn by one of several processes."""


def main(arguments: list[str]) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--label", choices=LABELS, default="after", help="entry of the results (default: after)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="file of the results")
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=tuple(RUNS), help="runs (default: all)")
    parser.add_argument(
        "--draws", nargs="*", choices=DRAWN, default=tuple(DRAWN), help="batches to draw (default: all)"
    )
    options = parser.parse_args(arguments)
    register_deep_pipeline()
    results = read_json(options.out) if options.out.is_file() else {}
    counted = results.setdefault(options.label, {"steps": {}, "batches of one process": {}})
    counted["conditions"] = {"machine": machine(), "commit": commit(), "torch": torch.__version__}
    for name in options.runs:
        counted["steps"][name] = count_run(name)
        write_json(options.out, results)
        print(name, counted["steps"][name], flush=True)
    for name in options.draws:
        counted["batches of one process"][name] = {
            str(processes): count_batch(*DRAWN[name], processes) for processes in PROCESSES
        }
        print(name, counted["batches of one process"][name], flush=True)
    write_json(options.out, results)
    if options.out == RESULTS:
        BLOCK.write(render(results)[BLOCK])


def count_run(name: str) -> dict[str, Any]:
    """Count one step of a run of `RUNS`, by its parts; a run that the checkout refuses has the message."""
    preset, overrides = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        try:
            config = configure(preset, overrides, Path(folder))
            return count_step(config)
        except UserError as error:
            return {"refused": str(error)}


def configure(preset: str, overrides: tuple[str, ...], folder: Path) -> RunConfig:
    """Read a preset's run with random weights, and with data that are written into the folder."""
    given = [*FROM_THE_START, "--run_dir", str(folder / "run"), *overrides]
    if preset.startswith("sdxl"):
        given += ["--data.path", str(write_captioned_images(folder / "images", 2, 64))]
        given += ["--teacher.path", DEEP]
    elif preset.startswith("cifar10"):
        data = write_random_images(folder / "data.npz", 100, 32, 10)
        given += ["--data", f"{{name: array, path: {data}}}"]
    config = read_config(ROOT / "configs" / f"{preset}.yaml", given)
    if hasattr(config, "compile"):  # an older checkout has no such settings
        config = config.model_copy(update={"compile": "none", "channels_last": False})
    if preset.startswith("sdxl"):
        teacher = RandomTeacher(path=DEEP, dtype="bfloat16", resolution=64)
        return config.model_copy(update={"teacher": teacher})
    if preset.startswith("cifar10"):
        return config.model_copy(update={"teacher": RandomEDM(path=Path(CIFAR10))})
    return config


def count_step(config: RunConfig) -> dict[str, Any]:
    """Count the operations between the beginnings of two steps, by part."""
    counter = Counter()

    def watch(task: Distillation, step: int, update: Update) -> Mapping[str, Any]:
        if step == 0:
            counter.name_parts(task)
        if step == COUNTED_STEP:
            counter.start()
        if step > COUNTED_STEP:
            counter.stop()
            raise Enough
        return update()

    make_steps(config, watch)
    return counter.counts()


def render(results: Mapping[str, Any]) -> dict[Block, str]:
    """Return the generated block with its text: a table of the steps, and one of the batches."""
    commits = ", ".join(f"{label} is {one['conditions']['commit']}" for label, one in results.items())
    steps = [[name, *(_numbers(results, label, name) for label in LABELS)] for name in RUNS]
    head = ["step", *(f"{label}: dispatched, computing, reads" for label in LABELS)]
    batches = [
        [f"{name}, process 1 of {processes}", *(_batch(results, label, name, processes) for label in LABELS)]
        for name in DRAWN
        for processes in PROCESSES
    ]
    batch_head = ["batch", *(f"{label}: random numbers, dispatched" for label in LABELS)]
    tables = [markdown_table(head, steps), markdown_table(batch_head, batches)]
    return {BLOCK: "\n\n".join([f"Commits: {commits}.", *tables])}


def _numbers(results: Mapping[str, Any], label: str, run: str) -> str:
    """Return a step's numbers as text; those of reads leave out values that are read a step late."""
    counts = results.get(label, {}).get("steps", {}).get(run)
    if counts is None:
        return "not run"
    if "refused" in counts:
        return "refused"
    reads = sum(count["reads"] for part, count in counts.items() if part not in (LATE, "step"))
    return f"{counts['step']['dispatched']:,}, {counts['step']['computing']:,}, {reads}"


def _batch(results: Mapping[str, Any], label: str, name: str, processes: int) -> str:
    counts = results.get(label, {}).get("batches of one process", {}).get(name, {}).get(str(processes))
    if counts is None:
        return "not run"
    return f"{counts['random bytes'] / 1e6:,.1f} MB, {counts['dispatched']:,}"


if __name__ == "__main__":
    main(sys.argv[1:])
