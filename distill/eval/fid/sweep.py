"""`python -m eval sweep`: every checkpoint of a run under a protocol, and the best one three times anew."""

from __future__ import annotations

from pathlib import Path

import distill
from distill.config.config_file import differences
from distill.config.errors import UserError
from distill.diffusion.samplers import Heun
from distill.eval.fid.arguments import SweepOptions
from distill.eval.fid.measurement import Measurement
from distill.eval.fid.prompts import read_texts
from distill.eval.fid.results import SWEEP_FORMAT, SweepIdentity, SweepResults, read_sweep
from distill.eval.fid.subjects import encode_prompts
from distill.eval.fid.table import cost, paper_line
from distill.eval.images.streams import ImageStream, NetworkImages, prompts_sha256
from distill.eval.protocols import default_protocol
from distill.eval.results.file import write_results
from distill.eval.results.tracked import track_sweep
from distill.eval.results.tracking import log_results
from distill.networks.folder import checkpoints
from distill.publishing.report.page import write_report
from distill.training.config import read_run
from distill.training.settings import TrainAutoencoderRun, TrainTeacherRun
from distill.types import Denoiser, Generator

FILE = "sweep.json"
REPETITIONS = 3


def run(options: SweepOptions) -> SweepResults:
    """Measure what is not measured yet, print the curve, and write the report with it.

    `sweep.json` is written after each checkpoint. An earlier sweep that measured something else is not
    continued.
    """
    paths = {int(path.name.removeprefix("step-")): path for path in checkpoints(options.run)}
    if not paths:
        raise UserError(f"{options.run}: holds no checkpoints to measure")
    protocol = options.protocol or _default_protocol(next(iter(paths.values())), options)
    if "," in protocol:
        raise UserError(f"--protocol {protocol}: a sweep chooses by one distance; expected one protocol")
    measurement = Measurement.open(options, protocol, bootstrap=0, per_label=False)
    file, count = options.run / FILE, options.n or measurement.protocol.count
    content = continue_sweep(file, identity(measurement, count, options.prompts))
    _measure_checkpoints(content, paths, file, options, measurement)
    best = _find_best(content, list(paths), measurement)
    earlier = content.get("best")
    if earlier is None or earlier["step"] != best:
        # The seeds that chose the best flatter it: the least of many numbers is low by chance too.
        seeds = [count * repetition for repetition in range(1, 1 + REPETITIONS)]
        results = measurement.of(streams_of(paths[best], options, measurement, count, seeds))
        if results is not None:
            content["best"] = {"step": best, "results": results}
            write_results(file, content)
    if measurement.processes.is_main:
        print(render(content))
        print(f"\n{file} and {write_report(options.run)} are written")
        log_results(options.tracking, track_sweep(content, options.run.resolve().name))
    return content


def _measure_checkpoints(
    content: SweepResults,
    paths: dict[int, Path],
    file: Path,
    options: SweepOptions,
    measurement: Measurement,
) -> None:
    """Measure the checkpoints that `content` lacks, from the same seeds, and write each result at once."""
    for step, path in paths.items():
        if str(step) not in content["checkpoints"]:
            results = measurement.of(streams_of(path, options, measurement, content["n"], [0]))
            if results is not None:
                content["checkpoints"][str(step)] = results["summary"]
                write_results(file, content)


def _find_best(content: SweepResults, steps: list[int], measurement: Measurement) -> int:
    """Find the checkpoint of the smallest distance. The main process has the numbers and tells the others."""
    chosen = []
    if measurement.processes.is_main:
        chosen = [min(steps, key=lambda step: content["checkpoints"][str(step)]["fd"]["mean"])]
    return measurement.processes.gather(chosen)[0]


def _load_network(path: Path, options: SweepOptions) -> Generator | Denoiser:
    """Load a checkpoint of a student, or of a teacher if the run trained one."""
    config = read_run(options.run)
    if isinstance(config, TrainAutoencoderRun):
        raise UserError(f"--run: {options.run} trained an autoencoder; expected a student or a teacher")
    if isinstance(config, TrainTeacherRun):
        return distill.load_teacher(path).eval()
    return distill.load_generator(path)


def _default_protocol(path: Path, options: SweepOptions) -> str:
    return default_protocol(tuple(_load_network(path, options).pixel_shape)).name


def identity(measurement: Measurement, count: int, prompts: Path | None) -> SweepIdentity:
    """Describe what the numbers of a sweep have in common."""
    texts = None if prompts is None else read_texts(prompts)
    return {
        "format": SWEEP_FORMAT,
        "protocol": measurement.protocol.name,
        "metric": measurement.protocol.metric,
        "preprocessing_sha256": measurement.protocol.sha256,
        "weights_sha256": measurement.extractor.sha256,
        "reference_sha256": measurement.reference.sha256,
        "n": count,
        "prompts_sha256": None if texts is None else prompts_sha256(texts),
    }


def continue_sweep(file: Path, expected: SweepIdentity) -> SweepResults:
    """Read an earlier sweep, or begin one."""
    if not file.is_file():
        return {**expected, "checkpoints": {}}
    content = read_sweep(file)
    found = {name: content.get(name) for name in expected}
    for key, there, here in differences(found, dict(expected)):
        difference = f"{key} is {there!r} there and {here!r} here"
        raise UserError(f"{file}: holds another sweep: {difference}; move it away to begin another")
    return content


def streams_of(
    path: Path, options: SweepOptions, measurement: Measurement, count: int, first_seeds: list[int]
) -> list[ImageStream]:
    """Open images of a checkpoint, one stream for each first seed, a teacher's by EDM's sampler."""
    network = _load_network(path, options)
    sampler = None if isinstance(network, Generator) else Heun()
    network = network.to(measurement.processes.device(options.device))
    prompts = encode_prompts(options.prompts, network)
    return [
        NetworkImages(network, count, seed, sampler, prompts, options.batch_size, path)
        for seed in first_seeds
    ]


def render(content: SweepResults) -> str:
    """Write the curve as lines of text, and the best checkpoint in three repetitions from other seeds."""
    best = content["best"]
    chosen = content["checkpoints"][str(best["step"])]["fd"]["mean"]
    lines = [f"{content['protocol']}, {content['n']} images of each checkpoint{cost(best['results'])}", ""]
    for step, summary in sorted(content["checkpoints"].items(), key=lambda item: int(item[0])):
        mark = "  best" if int(step) == best["step"] else ""
        lines.append(f"step {step:>8}  {summary['fd']['mean']:.4f}{mark}")
    lines += ["", f"step {best['step']} was chosen for {chosen:.4f}; from seeds that did not choose it:"]
    return "\n".join([*lines, paper_line(best["results"])])
