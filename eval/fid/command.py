"""`python -m eval fid`: Fréchet distances and their companions under a named protocol."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

import distill
from distill.config.config_file import describe
from distill.config.errors import UserError
from distill.config.settings import Settings
from distill.data import DataSettings
from distill.data.prompts import text_file
from distill.data.sources.array import read_array
from distill.diffusion.samplers import Heun
from distill.networks.diffusers.pipeline import open_pipeline
from distill.publishing.samples import choose_prompts
from distill.storage.files import write_json
from distill.storage.provenance import commit, machine
from distill.training.config import CONFIG, read_run
from eval.features import Extractor, load_extractor
from eval.fid.measure import Effort, measure, summarise
from eval.fid.reference import Reference, holds_statistics, read_statistics
from eval.fid.table import FORMAT, render
from eval.images.feature_store import Features, extract
from eval.images.pipelines import PipelineImages
from eval.images.processes import Processes
from eval.images.streams import DataImages, FileImages, ImageStream, NetworkImages
from eval.protocols import Protocol, default_protocol, read_protocol
from eval.run.images import parse_data

LARGE = (3, 64, 64)
"""What a pipeline's images are taken for before they are made: no pixels to be compared one by one."""


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Extract, measure, print and, with `--out`, write. Returns the results. Raises UserError where something is missing or does not fit."""
    if options.out is not None:
        check_out(options.out)
    options.protocol = options.protocol or default_protocol(shape_of(options)).name
    streams = open_streams(options, read_protocol(options.protocol))
    measurement = Measurement(options)
    results = measurement.of(streams)
    if measurement.processes.is_main:
        print(render(results))
        if options.out is not None:
            write_results(options.out, results)
            print(f"\n{options.out} is written")
    return results


def shape_of(options: argparse.Namespace) -> tuple[int, ...]:
    """The shape of the images that are to be measured. Raises UserError where they cannot be had."""
    if options.images is not None:
        return tuple(FileImages(options.images).files.pixels(0).shape)
    if options.array is not None:
        return read_array(options.array).image_shape
    if options.pipeline is not None:
        return LARGE
    network: Any = (
        distill.load_generator(options.run)
        if options.run is not None
        else distill.load_teacher(options.teacher)
    )
    return tuple(network.pixel_shape)


def check_out(path: Path) -> None:
    """Raises UserError where results could not be written, before hours are spent on them."""
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder; expected a file to write")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: {path.parent} is no folder")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--out {path}: cannot be written to")


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Raises UserError where they cannot be written after all."""
    try:
        write_json(path, results)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from error


class Measurement:
    """A protocol with its feature network and its reference, ready to measure. Raises UserError where one of them cannot be had."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.protocol, self.processes = read_protocol(options.protocol), Processes.of_environment()
        self.root, self.shows_progress = options.features, sys.stderr.isatty()
        self.effort = Effort(options.bootstrap, options.per_label, self.shows_progress)
        reference = open_reference(options, self.protocol)
        self.classes = getattr(reference, "classes", ())
        self.extractor = load_extractor(self.protocol.features, options.weights).to(
            device_of(options.device, self.processes)
        )
        self.reference = (
            reference
            if isinstance(reference, Reference)
            else Reference.of(self._features(reference), reference.origin)
        )

    def of(self, streams: list[ImageStream]) -> dict[str, Any]:
        """The results of one or more repetitions; in another process than the main one, which only helps with the features, nothing."""
        self._check_labels(streams[0])
        made = [self._features(stream) for stream in streams]
        return (
            evaluate(self.protocol, self.extractor, streams, made, self.reference, self.effort)
            if self.processes.is_main
            else {}
        )

    def _check_labels(self, stream: ImageStream) -> None:
        """Raises UserError where labels are places of folders that are not the reference's; a network's and an index's stand for themselves."""
        classes, real = getattr(stream, "classes", ()), self.reference.images
        if (
            self.effort.per_label
            and classes
            and classes != self.classes
            and real is not None
            and real.labels is not None
        ):
            expected = ", ".join(self.classes) or "numbers"
            raise UserError(
                f"--per-label: {stream.origin} has {', '.join(classes):.200}; expected {expected:.200} as the reference"
            )

    def _features(self, stream: ImageStream) -> Features:
        return extract(stream, self.protocol, self.extractor, self.root, self.processes, self.shows_progress)


def evaluate(
    protocol: Protocol,
    extractor: Extractor,
    streams: list[ImageStream],
    made: list[Features],
    reference: Reference,
    effort: Effort,
) -> dict[str, Any]:
    """What the JSON file holds, of one or more repetitions. Raises UserError where the features have another dimension than the reference."""
    check_dimensions(streams[0], made[0], reference)
    measured = [measure(features, reference, effort) for features in made]
    first_seeds = [
        stream.first_seed for stream in streams if isinstance(stream, (NetworkImages, PipelineImages))
    ] or None
    doubts = {"generated": measured[0].warning, "reference": reference.statistics.warning}
    sides = [*made, reference.images] if reference.images else made
    notes = dict.fromkeys(note for features in sides for note in features.notes)
    return {
        "format": FORMAT,
        "protocol": protocol.name,
        "metric": protocol.metric,
        "source": {"of": streams[0].origin, **streams[0].describe()},
        "n": len(streams[0]),
        "first_seeds": first_seeds,
        "departures": protocol.departures(len(streams[0]), first_seeds) + unknown_statistics(reference),
        "summary": summarise([one.results for one in measured]),
        "repetitions": [
            {"images_sha256": features.images_sha256, **one.results}
            for features, one in zip(made, measured, strict=True)
        ],
        "reference": {**reference.origin, "sha256": reference.sha256},
        "preprocessing_sha256": protocol.sha256,
        "weights_sha256": extractor.sha256,
        "skipped": measured[0].skipped,
        "warnings": [
            *(f"{name}: {doubt}" for name, doubt in doubts.items() if doubt),
            *notes,
            *repeated_prompts(streams[0]),
        ],
        "commit": commit(),
        "machine": machine(),
    }


def check_dimensions(stream: ImageStream, made: Features, reference: Reference) -> None:
    """Raises UserError where the features have another dimension than the reference's, as pixels of other sizes have."""
    found, expected = made.features.shape[1], len(reference.statistics.mean)
    if found != expected:
        raise UserError(
            f"{stream.origin}: features of {found} dimensions; expected {expected} as of the reference, {reference.origin['of']}"
        )


def unknown_statistics(reference: Reference) -> list[str]:
    """A departure where the reference is statistics of which nobody says how they were made."""
    return [] if reference.origin.get("known", True) else ["reference statistics of unknown origin"]


def repeated_prompts(stream: ImageStream) -> list[str]:
    """A warning where there are more images than prompts, which makes another number than as many different prompts."""
    prompts = stream.describe().get("prompts", len(stream))
    return (
        [f"generated: {prompts} prompts for {len(stream)} images, taken in turn"]
        if prompts < len(stream)
        else []
    )


def open_streams(options: argparse.Namespace, protocol: Protocol) -> list[ImageStream]:
    """The images to measure: one stream for each repetition. Raises UserError where there are too few."""
    if options.images is not None or options.array is not None:
        stream = FileImages(options.images) if options.images else array_images(options.array)
        return [first_of(stream, options.n, protocol)]
    open_one = pipeline_images if options.pipeline is not None else network_images
    first_seeds = [options.seed] if options.seed is not None else list(protocol.first_seeds)
    if options.n not in (None, protocol.count) and options.seed is None:
        first_seeds = first_seeds[:1]  # a look at fewer images than the protocol's, once
    return open_one(options, options.n or protocol.count, first_seeds)


def network_images(options: argparse.Namespace, count: int, first_seeds: list[int]) -> list[ImageStream]:
    """Images of a run's generator, or of a teacher and its sampler."""
    network: Any = (
        distill.load_generator(options.run)
        if options.run is not None
        else distill.load_teacher(options.teacher).eval()
    )
    sampler = None if options.run is not None else choose_sampler(options)
    prompts = choose_prompts(options.prompts, network)
    network = network.to(device_of(options.device, Processes.of_environment()))
    path = options.run or options.teacher
    return [
        NetworkImages(network, count, seed, sampler, prompts, options.batch_size, path)
        for seed in first_seeds
    ]


def choose_sampler(options: argparse.Namespace) -> Heun:
    """EDM's sampler as `--steps`, `--guidance` and `--sampler` want it. Raises UserError for a setting that it has not, or of another kind."""
    parts = [part.partition("=") for part in options.sampler.split(",")] if options.sampler else []
    given = {"steps": options.steps, "guidance": options.guidance} | {
        name.strip(): value for name, _, value in parts
    }
    try:
        return Heun.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        place = f"--sampler {options.sampler}: " if options.sampler else "--"
        raise UserError(f"{place}{describe(error, {})}") from error


def pipeline_images(options: argparse.Namespace, count: int, first_seeds: list[int]) -> list[ImageStream]:
    """Images of a diffusers pipeline with its own scheduler."""
    pipe = open_pipeline(options.pipeline, "--pipeline")
    pipe.to(device_of(options.device, Processes.of_environment()), getattr(torch, options.dtype or "float32"))
    prompts = [] if options.prompts is None else text_file.Settings(path=options.prompts).load()
    given = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    settings = {name: value for name, value in given.items() if value is not None}
    return [
        PipelineImages(pipe, count, seed, prompts, options.batch_size, **settings) for seed in first_seeds
    ]


def array_images(path: Path) -> DataImages:
    return DataImages(read_array(path), str(path), {"path": str(path.resolve())})


def first_of(stream: FileImages | DataImages, count: int | None, protocol: Protocol) -> ImageStream:
    """As many images as were asked for, or as the protocol wants. Raises UserError where there are fewer."""
    wanted = count or protocol.count
    if len(stream) < wanted:
        hint = (
            "expected at most as many"
            if count
            else f"{protocol.name} wants {wanted}; give --n to measure fewer, which is another number"
        )
        raise UserError(
            f"{f'--n {count}: ' if count else ''}{stream.origin} holds {len(stream)} images; {hint}"
        )
    stream.keep(wanted)
    return stream


def open_reference(options: argparse.Namespace, protocol: Protocol) -> ImageStream | Reference:
    """Published statistics, or the images of a folder, an archive, an array file, a data source or the run's own data."""
    text = options.reference
    if text is None:
        if not (options.run / CONFIG).is_file():
            raise UserError(f"{options.run}: is no run, whose data would be the reference; give --reference")
        config: Any = read_run(options.run)
        if config.data is None:
            raise UserError(f"{options.run}: the run has no data to compare with; give --reference")
        return data_images(config.data)
    path = Path(text)
    if holds_statistics(path):
        return read_statistics(path, protocol)
    if path.suffix.lower() in (".npy", ".npz"):
        return array_images(path)
    if path.exists():
        return FileImages(path)
    if ":" not in text and (path.suffix or len(path.parts) > 1):
        raise UserError(f"--reference {text}: no such file or folder")
    return data_images(parse_data(text, "--reference"))


def data_images(settings: Settings) -> DataImages:
    """The training images of a data source."""
    assert isinstance(settings, DataSettings)
    identity = {**settings.model_dump(mode="json"), "split": "train"}
    return DataImages(settings.load("train"), f"{identity['name']} training images", identity)


def device_of(name: str, processes: Processes) -> torch.device:
    """The device of this process. Raises UserError where it is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: is not available; expected auto or cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", processes.number % torch.cuda.device_count())
