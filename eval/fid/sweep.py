"""`python -m eval sweep`: every checkpoint of a run under a protocol, the best of them in three repetitions from seeds that did not choose it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import distill
from distill.config.config_file import differences
from distill.config.errors import UserError
from distill.data.prompts import text_file
from distill.diffusion.samplers import Heun
from distill.networks.folder import checkpoints
from distill.publishing.report.page import write_report
from distill.publishing.samples import choose_prompts
from distill.training.config import read_run
from distill.training.settings import TrainTeacherRun
from eval.fid.command import Measurement, device_of, write_results
from eval.fid.table import cost, paper_line
from eval.images.streams import ImageStream, NetworkImages, prompts_sha256
from eval.protocols import default_protocol
from eval.results_file import Part, Spread, read_results_of

FORMAT, FILE = "distill-sweep/2", "sweep.json"
REPETITIONS = 3


class _Best(Part):
    step: int
    results: dict[str, Any]


class _Sweep(Part):
    checkpoints: dict[str, dict[str, Spread]]
    best: _Best | None = None


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what is not yet, write `sweep.json` after each checkpoint, print the curve and the best, and write the report with them.

    Returns the content of `sweep.json`.

    Raises UserError where the run has no checkpoints, or an earlier sweep measured something else.
    """
    paths = {int(path.name.removeprefix("step-")): path for path in checkpoints(options.run)}
    if not paths:
        raise UserError(f"{options.run}: holds no checkpoints to measure")
    options.bootstrap, options.per_label = 0, False
    options.protocol = (
        options.protocol or default_protocol(shape_of_checkpoint(next(iter(paths.values())), options)).name
    )
    measurement = Measurement(options)
    file, count = options.run / FILE, options.n or measurement.protocol.count
    content = continued(file, identity(measurement, count, options.prompts))
    known: dict[str, Any] = content["checkpoints"]
    for step, path in paths.items():
        if str(step) not in known:
            known[str(step)] = measurement.of(streams_of(path, options, measurement, count, 1)).get("summary")
            keep(file, content, measurement)
    chosen = (
        [min(paths, key=lambda step: known[str(step)]["fd"]["mean"])] if measurement.processes.is_main else []
    )
    best = measurement.processes.gather(chosen)[0]
    if (content.get("best") or {}).get("step") != best:
        # The seeds that chose it flatter it: the least of many numbers is low by chance, too.
        fresh = streams_of(paths[best], options, measurement, count, REPETITIONS, first=1)
        content["best"] = {"step": best, "results": measurement.of(fresh)}
        keep(file, content, measurement)
    if measurement.processes.is_main:
        print(render(content))
        print(f"\n{file} and {write_report(options.run)} are written")
    return content


def shape_of_checkpoint(path: Path, options: argparse.Namespace) -> tuple[int, ...]:
    """The shape of the images of a checkpoint."""
    teacher = isinstance(read_run(options.run), TrainTeacherRun)
    network: Any = distill.load_teacher(path) if teacher else distill.load_generator(path)
    return tuple(network.pixel_shape)


def identity(measurement: Measurement, count: int, prompts: Path | None) -> dict[str, Any]:
    """What the numbers of a sweep have in common."""
    return {
        "format": FORMAT,
        "protocol": measurement.protocol.name,
        "metric": measurement.protocol.metric,
        "preprocessing_sha256": measurement.protocol.sha256,
        "weights_sha256": measurement.extractor.sha256,
        "reference_sha256": measurement.reference.sha256,
        "n": count,
        "prompts_sha256": None
        if prompts is None
        else prompts_sha256(text_file.Settings(path=prompts).load()),
    }


def continued(file: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """An earlier sweep, or the beginning of one. Raises UserError where the earlier one is damaged, or measured something else."""
    if not file.is_file():
        return {**expected, "checkpoints": {}}
    content = read_results_of("sweep", file, FORMAT, _Sweep)[0]
    for key, there, here in differences({name: content.get(name) for name in expected}, expected):
        raise UserError(
            f"{file}: holds another sweep: {key} is {there!r} there and {here!r} here; move it away to begin another"
        )
    return content


def streams_of(
    path: Path,
    options: argparse.Namespace,
    measurement: Measurement,
    count: int,
    repetitions: int,
    first: int = 0,
) -> list[ImageStream]:
    """Images of a checkpoint, of a teacher's by EDM's sampler; each repetition from the seeds that follow those of the one before, the first
    from those that follow `first` of them."""
    sampler = Heun() if isinstance(read_run(options.run), TrainTeacherRun) else None
    network: Any = distill.load_generator(path) if sampler is None else distill.load_teacher(path).eval()
    network = network.to(device_of(options.device, measurement.processes))
    prompts = choose_prompts(options.prompts, network)
    seeds = [count * repetition for repetition in range(first, first + repetitions)]
    return [NetworkImages(network, count, seed, sampler, prompts, options.batch_size, path) for seed in seeds]


def keep(file: Path, content: dict[str, Any], measurement: Measurement) -> None:
    if measurement.processes.is_main:
        write_results(file, content)


def render(content: dict[str, Any]) -> str:
    """The curve as lines of text, and the best in three repetitions from other seeds."""
    best = content["best"]
    chosen = content["checkpoints"][str(best["step"])]["fd"]["mean"]
    lines = [f"{content['protocol']}, {content['n']} images of each checkpoint{cost(best['results'])}", ""]
    for step, summary in sorted(content["checkpoints"].items(), key=lambda item: int(item[0])):
        lines.append(
            f"step {step:>8}  {summary['fd']['mean']:.4f}" + ("  best" if int(step) == best["step"] else "")
        )
    lines += ["", f"step {best['step']} was chosen for {chosen:.4f}; from seeds that did not choose it:"]
    return "\n".join([*lines, paper_line(best["results"])])
