"""The streams that `python -m eval` compares: real images, and images of networks, a folder or a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import distill
from distill.config.errors import UserError
from distill.data import DataSettings
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.sources.image_folder import ImageFolder
from distill.diffusion.guidance import check_guidance
from distill.diffusion.samplers import Heun
from distill.eval.images.sources import NAMED_FOLDERS, array_images, data_images
from distill.eval.images.streams import DataImages, NetworkImages
from distill.eval.run.arguments import RunOptions
from distill.eval.run.results import Role
from distill.publishing.samples import choose_prompts
from distill.training.distillation.build import read_prompts
from distill.training.pretraining.teacher import read_captions
from distill.training.settings import DistillRun, RunConfig, TrainAutoencoderRun, TrainTeacherRun
from distill.types import Denoiser, Generator

SAMPLED = 10_000
"""Images that are sampled unless --n says otherwise."""


@dataclasses.dataclass(frozen=True)
class RealStreams:
    """The training images and the held-out images, None if the source has none."""

    train: DataImages
    held_out: DataImages | None


def open_real(data: DataSettings) -> RealStreams:
    """Open the real images, all of one shape."""
    train = data_images(data)
    if not data.has_held_out:
        return RealStreams(train, None)
    held_out = data_images(data, "held_out")
    if held_out.image_shape != train.image_shape:
        expected = f"expected {train.image_shape} as the training images"
        raise UserError(f"held-out images of {held_out.image_shape}; {expected}")
    return RealStreams(train, held_out)


def folder_images(path: Path, real: DataImages) -> DataImages:
    """Open a folder, read as grey images if the real ones are grey.

    Labels come from an index such as `sample.py`'s, or from one sub-folder for each of the real labels.
    """
    folder = ImageFolder(path, grey=real.image_shape[0] == 1, classes=real.classes)
    if folder.classes and real.label_count and not real.classes:
        raise UserError(f"{path}: {NAMED_FOLDERS} as the labels of the data, 0 to {real.label_count - 1}")
    stream = DataImages(folder, str(path), {"path": str(path.resolve())})
    check_fits_data(stream, real)
    return stream


def array_file_images(path: Path, real: DataImages) -> DataImages:
    """Open a `.npy` or `.npz` file, with labels if it has them."""
    stream = array_images(path)
    check_fits_data(stream, real)
    return stream


def check_fits_data(stream: DataImages, real: DataImages) -> None:
    """Refuse images of another shape than the real ones, or of labels that those do not have."""
    if stream.image_shape != real.image_shape:
        expected = f"expected {real.image_shape} as the data's"
        raise UserError(f"{stream.origin}: images of {stream.image_shape}; {expected}")
    if real.label_count and stream.label_count > real.label_count:
        expected = f"expected labels from 0 to {real.label_count - 1} as the data's"
        raise UserError(f"{stream.origin}: label {stream.label_count - 1} is out of range; {expected}")


def open_files(options: RunOptions, real: DataImages) -> DataImages:
    """Open the images of `--images` or `--array`, as many as `--n` says."""
    if options.images is not None:
        stream = folder_images(options.images, real)
    else:
        assert options.array is not None
        stream = array_file_images(options.array, real)
    if options.n is not None:
        if options.n > len(stream):
            found = f"{stream.origin} holds {len(stream)} images"
            raise UserError(f"--n {options.n}: {found}; expected at most as many")
        stream.keep(options.n)
    return stream


def open_networks(
    options: RunOptions, config: RunConfig | None, real: DataImages
) -> dict[Role, NetworkImages]:
    """Open a run's student and teacher, or a teacher alone; all share seeds and conditions."""
    networks = load_networks(options, config)
    for role, network in networks.items():
        check_network_fits_data(role, network, real)
    return {role: _network_images(options, config, network) for role, network in networks.items()}


def load_networks(options: RunOptions, config: RunConfig | None) -> dict[Role, Generator | Denoiser]:
    """Load a run's student and teacher, or the teacher alone."""
    if options.teacher is not None:
        return {"teacher": distill.load_teacher(options.teacher)}
    assert options.run is not None
    if isinstance(config, TrainTeacherRun):
        if options.no_teacher:
            raise UserError(f"--no-teacher: {options.run} trained a teacher and has nothing else")
        return {"teacher": distill.load_teacher(options.run)}
    if isinstance(config, TrainAutoencoderRun):
        raise UserError(f"--run: {options.run} trained an autoencoder; expected a student or a teacher")
    assert config is not None
    networks: dict[Role, Generator | Denoiser] = {"student": distill.load_generator(options.run)}
    if not options.no_teacher:
        networks["teacher"] = distill.load_teacher(config.teacher)
    return networks


def check_network_fits_data(role: Role, network: Generator | Denoiser, real: DataImages) -> None:
    """Refuse a network that makes other images, or has other labels, than the data."""
    shape = tuple(network.pixel_shape)
    if shape != real.image_shape:
        raise UserError(f"the {role} makes images of {shape}; expected {real.image_shape} as the data's")
    if real.label_count and not network.takes_text and network.label_count not in (0, real.label_count):
        expected = f"expected {real.label_count} as the data's"
        raise UserError(f"the {role} has {network.label_count} labels; {expected}")


def _network_images(
    options: RunOptions, config: RunConfig | None, network: Generator | Denoiser
) -> NetworkImages:
    sampler = None if isinstance(network, Generator) else Heun(guidance=_guidance(options, config, network))
    prompts = _prompts(options, config, network)
    count = options.n or SAMPLED
    return NetworkImages(network, count, options.seed, sampler, prompts, options.batch_size)


def _guidance(options: RunOptions, config: RunConfig | None, teacher: Denoiser) -> float:
    """Choose a teacher's guidance scale: `--guidance`, or else one that suits it.

    A teacher that takes prompts needs guidance: it gets that of the student's loss. Others get none.
    """
    if options.guidance is not None:
        check_guidance(teacher, options.guidance, "--guidance")
        return options.guidance
    if isinstance(config, DistillRun) and teacher.takes_text:
        return config.guidance.teacher
    return 1.0


def _prompts(
    options: RunOptions, config: RunConfig | None, network: Generator | Denoiser
) -> EncodedPrompts | None:
    """Choose `--prompts`, or else those of the run, for a network that takes text."""
    encoder = network.prompt_encoder
    if encoder is not None and options.prompts is None:
        if isinstance(config, DistillRun):
            return read_prompts(config, network)
        if isinstance(config, TrainTeacherRun):
            return EncodedPrompts.by(encoder, read_captions(config))
    return choose_prompts(options.prompts, network)
