"""The streams that `python -m eval fid` measures, and the reference that they are compared with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import distill
from distill.config.errors import UserError
from distill.data import DataSettings
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.option import parse_data
from distill.data.sources.array import read_array
from distill.diffusion.samplers import Heun
from distill.eval.fid.arguments import FidOptions, MeasurementOptions
from distill.eval.fid.choices import choose_references
from distill.eval.fid.prompts import categorised, is_benchmark, read_texts
from distill.eval.fid.reference import Reference, holds_statistics, read_statistics
from distill.eval.images.pipelines import PipelineImages
from distill.eval.images.processes import Processes
from distill.eval.images.sources import array_images, data_images
from distill.eval.images.streams import DataImages, FileImages, ImageStream, NetworkImages
from distill.eval.protocols import Protocol
from distill.networks.diffusers.opening.folders import open_pipeline
from distill.publishing.run_record import note_of_features
from distill.publishing.samples import choose_prompts, read_sampler
from distill.storage.files import read_mapping
from distill.training.config import CONFIG, read_run
from distill.training.run_folder import META
from distill.types import Denoiser, Generator

PIPELINE_SHAPE = (3, 64, 64)
"""The shape assumed of a pipeline's images before they are made: too many pixels for a distance of pixels."""


class Subject:
    """What the command line asks to measure. Its network is loaded once, when it is first needed."""

    def __init__(self, options: FidOptions) -> None:
        self.options = options

    @functools.cached_property
    def network(self) -> Generator | Denoiser:
        """The network of `--run` or `--teacher`."""
        if self.options.run is not None:
            return distill.load_generator(self.options.run)
        assert self.options.teacher is not None
        return distill.load_teacher(self.options.teacher).eval()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the images."""
        if self.options.images is not None:
            return tuple(FileImages(self.options.images).files.pixels(0).shape)
        if self.options.array is not None:
            return read_array(self.options.array).image_shape
        if self.options.pipeline is not None:
            return PIPELINE_SHAPE
        return tuple(self.network.pixel_shape)


def open_streams(subject: Subject, protocols: Sequence[Protocol]) -> list[list[ImageStream]]:
    """Open the images to measure, for each protocol: one stream for each repetition.

    Protocols that want the same images share their streams.
    """
    options = subject.options
    open_images = stream_opener(subject, options.n)
    opened: dict[tuple[int | None, int], ImageStream] = {}
    streams = []
    for protocol in protocols:
        repetitions = []
        for seed in _first_seeds(options, protocol):
            key = (seed, options.n or protocol.count)
            if key not in opened:
                opened[key] = categorised(open_images(protocol, seed), options.prompts)
            repetitions.append(opened[key])
        streams.append(repetitions)
    return streams


def _first_seeds(options: FidOptions, protocol: Protocol) -> list[int]:
    """Choose the first seed of each repetition. Files are measured once."""
    if options.images is not None or options.array is not None:
        return [0]
    if options.seed is not None:
        return [options.seed]
    if options.n not in (None, protocol.count):
        return list(protocol.first_seeds[:1])  # fewer images are only a look: once is enough
    return list(protocol.first_seeds)


def stream_opener(subject: Subject, count: int | None) -> Callable[[Protocol, int], ImageStream]:
    """Return the function that opens the images of a protocol from a first seed; it loads networks once.

    It opens `count` images, or as many as the protocol wants.
    """
    options = subject.options
    if options.pipeline is not None:
        return _pipeline_opener(options, options.pipeline, count)
    if options.run is not None or options.teacher is not None:
        return _network_opener(subject, count)

    def open_files(protocol: Protocol, seed: int) -> ImageStream:
        if options.images is not None:
            return _first_of(FileImages(options.images), count, protocol)
        assert options.array is not None
        return _first_of(array_images(options.array), count, protocol)

    return open_files


def _network_opener(subject: Subject, count: int | None) -> Callable[[Protocol, int], ImageStream]:
    options, network = subject.options, subject.network
    sampler = None if isinstance(network, Generator) else choose_sampler(options)
    prompts = encode_prompts(options.prompts, network)
    network = network.to(Processes.of_environment().device(options.device))
    path = options.run or options.teacher or ""

    def open_images(protocol: Protocol, seed: int) -> ImageStream:
        wanted = count or protocol.count
        return NetworkImages(network, wanted, seed, sampler, prompts, options.batch_size, path)

    return open_images


def encode_prompts(path: Path | None, network: Generator | Denoiser) -> EncodedPrompts | None:
    """Give the prompts of a text file or of a benchmark to a model that takes text, None to another."""
    if path is None or network.prompt_encoder is None or not is_benchmark(path):
        return choose_prompts(path, network)
    return EncodedPrompts.by(network.prompt_encoder, read_texts(path))


def choose_sampler(options: FidOptions) -> Heun:
    """Make EDM's sampler with what `--steps`, `--guidance` and `--sampler` say."""
    given: dict[str, object] = {"steps": options.steps, "guidance": options.guidance}
    if not options.sampler:
        return read_sampler(given)
    for part in options.sampler.split(","):
        name, _, value = part.partition("=")
        given[name.strip()] = value
    return read_sampler(given, f"--sampler {options.sampler}: ")


def _pipeline_opener(
    options: FidOptions, path: str, count: int | None
) -> Callable[[Protocol, int], ImageStream]:
    pipe = open_pipeline(path, "--pipeline")
    dtype = getattr(torch, options.dtype or "float32")
    pipe.to(Processes.of_environment().device(options.device), dtype)
    prompts = [] if options.prompts is None else read_texts(options.prompts)
    given = {"num_inference_steps": options.steps, "guidance_scale": options.guidance}
    settings = {name: value for name, value in given.items() if value is not None}

    def open_images(protocol: Protocol, seed: int) -> ImageStream:
        return PipelineImages(pipe, count or protocol.count, seed, prompts, options.batch_size, **settings)

    return open_images


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


def open_references(
    options: MeasurementOptions, protocols: Sequence[Protocol]
) -> list[ImageStream | Reference]:
    """Open the reference of each protocol: published statistics or real images.

    Real images are files, an array, a data source, or the run's own data.
    """
    opened: dict[str | None, ImageStream] = {}
    references: list[ImageStream | Reference] = []
    for text, protocol in zip(choose_references(options.reference, protocols), protocols, strict=True):
        if text is None and options.run is None:
            raise UserError(f"--reference: {protocol.name} has none; expected one for each protocol")
        if text is not None and holds_statistics(Path(text)):
            references.append(read_statistics(Path(text), protocol))
            continue
        if text not in opened:
            opened[text] = _open_real(options, text)
        references.append(opened[text])
    return references


def _open_real(options: MeasurementOptions, text: str | None) -> ImageStream:
    if text is None:
        return data_images(_run_data(options.run), flag="--reference")
    return _open_real_images(text, "--reference")


def _open_real_images(text: str, flag: str) -> ImageStream:
    """Open real images: files, an array, or a data source."""
    path = Path(text)
    if path.suffix.lower() in (".npy", ".npz"):
        return array_images(path)
    if path.exists():
        return FileImages(path)
    if ":" not in text and (path.suffix or len(path.parts) > 1):
        raise UserError(f"{flag} {text}: no such file or folder")
    return data_images(parse_data(text, flag), flag=flag)


def open_held_out(
    options: MeasurementOptions, protocols: Sequence[Protocol], text: str | None
) -> ImageStream | None:
    """Open real images that are not in the reference, None if there are none.

    Without `text` they are the held-out part of the data source that is the reference of all protocols.
    """
    if text is not None:
        if holds_statistics(Path(text)):
            raise UserError(f"--held-out {text}: holds statistics; expected images")
        return _open_real_images(text, "--held-out")
    (reference, *others) = dict.fromkeys(choose_references(options.reference, protocols))
    if others:
        return None
    if reference is None:
        source = _run_data(options.run)
    elif Path(reference).exists() or Path(reference).suffix.lower() in (".npy", ".npz"):
        return None
    else:
        source = parse_data(reference, "--reference")
    return data_images(source, "held_out") if source.has_held_out else None


def _run_data(run: Path | None) -> DataSettings:
    """Return the data of a run, which are its reference."""
    assert run is not None
    if not (run / CONFIG).is_file():
        raise UserError(f"{run}: is no run, whose data would be the reference; give --reference")
    data = read_run(run).data
    if data is None:
        raise UserError(f"{run}: the run has no data to compare with; give --reference")
    assert isinstance(data, DataSettings)
    return data


def trained_note(path: Path | None, features: str) -> str | None:
    """Return a note if a run was trained on these features.

    `path` is the folder of the run, or of a checkpoint or an export in it.
    """
    if path is None:
        return None
    for folder in (path, *path.resolve().parents[:2]):
        if (folder / META).is_file():
            return note_of_features(read_mapping(folder / META), features)
    return None
