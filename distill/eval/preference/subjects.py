"""Subjects that make images of prompts: a run's generator, a teacher with its sampler, a pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

import distill
from distill.config.errors import UserError
from distill.data.encoded_prompts import EncodedPrompts
from distill.diffusion.samplers import Heun
from distill.eval.images.pipelines import PipelineImages
from distill.eval.images.streams import NetworkImages
from distill.eval.preference.subject_spec import SubjectSpec
from distill.eval.prompt_sets import PromptSet
from distill.networks.diffusers.opening.folders import open_pipeline
from distill.networks.identity import describe_images_of
from distill.publishing.run_sources import load_run_teacher
from distill.publishing.samples import check_makes_images, computing, read_sampler
from distill.types import Denoiser, Generator


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Makes images by their rows: row i has prompt i % count and seed first_seed + i."""

    origin: str
    """The subject, in words."""
    identity: dict[str, Any]
    """Everything that all images depend on except their seeds and prompts, as plain data."""
    batch_size: int
    """Images made at once."""
    read: Callable[[Sequence[int]], list[UInt8[Tensor, "c h w"] | UserError]]
    """Makes the images of these rows; for an image that is not finite, returns the UserError that says so."""


def open_subject(
    spec: SubjectSpec, prompts: PromptSet, seeds: range, batch_size: int, dtype: str, device: torch.device
) -> ImageSource:
    """Open a subject and check that it takes these prompts."""
    if spec.kind == "pipeline":
        return _open_pipeline(spec, prompts, seeds, batch_size, dtype, device)
    network, sampler = _open_network(spec)
    check_takes(spec, prompts, network.takes_text, network.label_count)
    encoder = network.prompt_encoder
    encoded = None if encoder is None else EncodedPrompts.by(encoder, prompts.texts)
    stream = NetworkImages(network.to(device), len(seeds), seeds[0], sampler, encoded, batch_size, spec.path)
    identity: dict[str, Any] = {
        "kind": "network",
        "weights_sha256": stream.sha256,
        "encoder_sha256": encoded.encoder if encoded else None,
        "dtype": dtype,
        **describe_images_of(network),
    }
    if sampler is not None:
        identity["sampler"] = sampler.model_dump(mode="json")
    identity["size"] = list(network.pixel_shape)

    def read(rows: Sequence[int]) -> list[Tensor | UserError]:
        with computing(network, dtype):
            return list(stream.read(rows))

    origin = origin_of(stream.origin, spec, sampler.steps if sampler else None)
    return ImageSource(origin, identity, batch_size, read)


def _open_network(spec: SubjectSpec) -> tuple[Generator | Denoiser, Heun | None]:
    """Open a run's generator, or a teacher with its sampler."""
    if spec.kind == "run":
        return distill.load_generator(spec.path), None
    sampler = read_sampler({"steps": spec.steps, "guidance": spec.guidance})
    teacher: Denoiser
    if spec.own:
        teacher = check_makes_images(load_run_teacher(Path(spec.path)), Path(spec.path))
    else:
        teacher = distill.load_teacher(spec.path).eval()
    return teacher, sampler


def _open_pipeline(
    spec: SubjectSpec, prompts: PromptSet, seeds: range, batch_size: int, dtype: str, device: torch.device
) -> ImageSource:
    pipe = open_pipeline(spec.path, spec.flag)
    pipe.to(device, getattr(torch, dtype))
    settings = _known({"num_inference_steps": spec.steps, "guidance_scale": spec.guidance})
    texts = () if prompts.are_labels else prompts.texts
    stream = PipelineImages(pipe, len(seeds), seeds[0], texts, batch_size, **settings)
    check_takes(spec, prompts, stream.takes_text, stream.label_count)

    def read(rows: Sequence[int]) -> list[Tensor | UserError]:
        return list(stream.read(rows))

    origin = origin_of(f"{stream.origin} in {spec.path}", spec, spec.steps)
    return ImageSource(origin, stream.identity, batch_size, read)


def _known(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that are not None."""
    return {name: value for name, value in settings.items() if value is not None}


def origin_of(whose: str, spec: SubjectSpec, steps: int | None) -> str:
    """Say in words whose images they are and how they are made."""
    settings = _known({"steps": steps, "guidance": spec.guidance})
    return ", ".join([whose, *(f"{name} {value:g}" for name, value in settings.items())])


def check_takes(spec: SubjectSpec, prompts: PromptSet, takes_text: bool, label_count: int) -> None:
    """Check that a model of text is given text, and a model of labels all its labels."""
    if takes_text and prompts.are_labels:
        raise UserError(
            f"{spec.flag}: {spec.path} takes text; expected a file of prompts, not {prompts.origin}"
        )
    if takes_text or (label_count and prompts.are_labels and len(prompts) == label_count):
        return
    if label_count:
        expected = f"--prompts labels:{label_count}, all of them"
    else:
        expected = "a model of prompts or of labels"
    raise UserError(f"{spec.flag}: {spec.path} takes no text; expected {expected}")
