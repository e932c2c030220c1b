"""The streams that `python -m eval fid` measures, and the reference that they are compared with."""

from __future__ import annotations

from pathlib import Path

import torch

import distill
from distill.config.errors import UserError
from distill.data import DataSettings
from distill.data.option import parse_data
from distill.data.prompts import text_file
from distill.data.sources.array import read_array
from distill.diffusion.samplers import Heun
from distill.eval.fid.arguments import FidOptions, MeasurementOptions
from distill.eval.fid.reference import Reference, holds_statistics, read_statistics
from distill.eval.images.pipelines import PipelineImages
from distill.eval.images.processes import Processes
from distill.eval.images.sources import array_images, data_images
from distill.eval.images.streams import DataImages, FileImages, ImageStream, NetworkImages
from distill.eval.protocols import Protocol
from distill.networks.diffusers.opening.folders import open_pipeline
from distill.publishing.samples import choose_prompts, read_sampler
from distill.training.config import CONFIG, read_run
from distill.types import Denoiser, Generator

PIPELINE_SHAPE = (3, 64, 64)
"""The shape assumed of a pipeline's images before they are made: too many pixels for a distance of pixels."""


def shape_of(options: FidOptions) -> tuple[int, ...]:
    """Find the shape of the images that are to be measured."""
    if options.images is not None:
        return tuple(FileImages(options.images).files.pixels(0).shape)
    if options.array is not None:
        return read_array(options.array).image_shape
    if options.pipeline is not None:
        return PIPELINE_SHAPE
    return tuple(_load_network(options).pixel_shape)


def open_streams(options: FidOptions, protocol: Protocol) -> list[ImageStream]:
    """Open the images to measure: one stream for each repetition."""
    if options.images is not None:
        return [_first_of(FileImages(options.images), options.n, protocol)]
    if options.array is not None:
        return [_first_of(array_images(options.array), options.n, protocol)]
    first_seeds = [options.seed] if options.seed is not None else list(protocol.first_seeds)
    if options.n not in (None, protocol.count) and options.seed is None:
        first_seeds = first_seeds[:1]  # fewer images than the protocol's are only a look: once is enough
    count = options.n or protocol.count
    if options.pipeline is not None:
        return _pipeline_images(options, options.pipeline, count, first_seeds)
    return _network_images(options, count, first_seeds)


def _load_network(options: FidOptions) -> Generator | Denoiser:
    if options.run is not None:
        return distill.load_generator(options.run)
    assert options.teacher is not None
    return distill.load_teacher(options.teacher).eval()


def _network_images(options: FidOptions, count: int, first_seeds: list[int]) -> list[ImageStream]:
    network = _load_network(options)
    sampler = None if isinstance(network, Generator) else choose_sampler(options)
    prompts = choose_prompts(options.prompts, network)
    network = network.to(Processes.of_environment().device(options.device))
    path = options.run or options.teacher or ""
    return [
        NetworkImages(network, count, seed, sampler, prompts, options.batch_size, path)
        for seed in first_seeds
    ]


def choose_sampler(options: FidOptions) -> Heun:
    """Make EDM's sampler with what `--steps`, `--guidance` and `--sampler` say."""
    given: dict[str, object] = {"steps": options.steps, "guidance": options.guidance}
    if not options.sampler:
        return read_sampler(given)
    for part in options.sampler.split(","):
        name, _, value = part.partition("=")
        given[name.strip()] = value
    return read_sampler(given, f"--sampler {options.sampler}: ")


def _pipeline_images(options: FidOptions, path: str, count: int, first_seeds: list[int]) -> list[ImageStream]:
    pipe = open_pipeline(path, "--pipeline")
    dtype = getattr(torch, options.dtype or "float32")
    pipe.to(Processes.of_environment().device(options.device), dtype)
    prompts = [] if options.prompts is None else text_file.Settings(path=options.prompts).load()
    given = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    settings = {name: value for name, value in given.items() if value is not None}
    return [
        PipelineImages(pipe, count, seed, prompts, options.batch_size, **settings) for seed in first_seeds
    ]


def _first_of(stream: FileImages | DataImages, count: int | None, protocol: Protocol) -> ImageStream:
    """Keep as many images as were asked for, or as the protocol wants."""
    wanted = count or protocol.count
    if len(stream) < wanted:
        found = f"{stream.origin} holds {len(stream)} images"
        if count:
            raise UserError(f"--n {count}: {found}; expected at most as many")
        hint = "give --n to measure fewer, which is another number"
        raise UserError(f"{found}; {protocol.name} wants {wanted}; {hint}")
    stream.keep(wanted)
    return stream


def open_reference(options: MeasurementOptions, protocol: Protocol) -> ImageStream | Reference:
    """Open published statistics or real images: files, an array, a data source, or the run's own data."""
    text = options.reference
    if text is None:
        assert options.run is not None
        return _run_images(options.run)
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


def _run_images(run: Path) -> DataImages:
    """Open the training images of a run."""
    if not (run / CONFIG).is_file():
        raise UserError(f"{run}: is no run, whose data would be the reference; give --reference")
    data = read_run(run).data
    if data is None:
        raise UserError(f"{run}: the run has no data to compare with; give --reference")
    assert isinstance(data, DataSettings)
    return data_images(data)
