"""What makes images of prompts: a run's generator, a teacher with its sampler, a pipeline of diffusers."""

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
from distill.networks.diffusers.pipeline import open_pipeline
from distill.networks.identity import describe_images_of
from distill.publishing.samples import check_makes_images, computing
from distill.training.run_folder import load_run_teacher
from eval.images.pipelines import PipelineImages
from eval.images.streams import NetworkImages
from eval.preference.subject_spec import SubjectSpec
from eval.prompt_sets import PromptSet


@dataclasses.dataclass(frozen=True)
class ImageSource:
    """Images by their rows, row i of prompt i % count and of seed first_seed + i; what all of them depend on besides; how many are made at once.

    An image that is not finite is given as the UserError that says so.
    """

    origin: str
    identity: dict[str, Any]
    batch_size: int
    read: Callable[[Sequence[int]], list[UInt8[Tensor, "c h w"] | UserError]]


def open_subject(
    asked: SubjectSpec, prompts: PromptSet, seeds: range, batch_size: int, dtype: str, device: torch.device
) -> ImageSource:
    """Open what makes images. Raises UserError where it is not there, or takes other prompts."""
    if asked.kind == "pipeline":
        return _open_pipeline(asked, prompts, seeds, batch_size, dtype, device)
    network: Any
    sampler: Heun | None = None
    if asked.kind == "run":
        network = distill.load_generator(asked.path)
    else:
        given = {
            name: value
            for name, value in (("steps", asked.steps), ("guidance", asked.guidance))
            if value is not None
        }
        sampler = Heun(**given)
        network = (
            check_makes_images(load_run_teacher(Path(asked.path)), Path(asked.path))
            if asked.own
            else distill.load_teacher(asked.path).eval()
        )
    check_takes(asked, prompts, network.takes_text, network.label_count)
    encoder = network.prompt_encoder
    encoded = None if encoder is None else EncodedPrompts.by(encoder, prompts.texts)
    stream = NetworkImages(network.to(device), len(seeds), seeds[0], sampler, encoded, batch_size, asked.path)
    identity: dict[str, Any] = {
        "kind": "network",
        "weights_sha256": stream.sha256,
        "encoder_sha256": encoded.encoder if encoded else None,
        "dtype": dtype,
    }
    identity |= describe_images_of(network)
    if sampler is not None:
        identity["sampler"] = sampler.model_dump(mode="json")

    def read(rows: Sequence[int]) -> list[Tensor | UserError]:
        with computing(network, dtype):
            return list(stream.read(rows))

    return ImageSource(
        origin_of(stream.origin, asked, sampler.steps if sampler else None),
        {**identity, "size": list(network.pixel_shape)},
        batch_size,
        read,
    )


def origin_of(whose: str, asked: SubjectSpec, steps: int | None) -> str:
    """Whose images they are, and how they are made, for people."""
    settings = {"steps": steps, "guidance": asked.guidance}
    return ", ".join([whose, *(f"{name} {value:g}" for name, value in settings.items() if value is not None)])


def check_takes(asked: SubjectSpec, prompts: PromptSet, takes_text: bool, label_count: int) -> None:
    """Raises UserError where a model takes text and is given labels, or takes labels and is not given just these."""
    if takes_text and prompts.are_labels:
        raise UserError(
            f"{asked.flag}: {asked.path} takes text; expected a file of prompts, not {prompts.origin}"
        )
    if not takes_text and (not label_count or not prompts.are_labels or len(prompts) != label_count):
        expected = (
            f"--prompts labels:{label_count}, all of them"
            if label_count
            else "a model of prompts or of labels"
        )
        raise UserError(f"{asked.flag}: {asked.path} takes no text; expected {expected}")


def _open_pipeline(
    asked: SubjectSpec, prompts: PromptSet, seeds: range, batch_size: int, dtype: str, device: torch.device
) -> ImageSource:
    pipe = open_pipeline(asked.path, asked.flag)
    pipe.to(device, getattr(torch, dtype))
    given = {"num_inference_steps": asked.steps, "guidance_scale": asked.guidance}
    settings = {name: value for name, value in given.items() if value is not None}
    stream = PipelineImages(
        pipe, len(seeds), seeds[0], () if prompts.are_labels else prompts.texts, batch_size, **settings
    )
    check_takes(asked, prompts, stream.takes_text, stream.label_count)
    return ImageSource(
        origin_of(f"{stream.origin} in {asked.path}", asked, asked.steps),
        stream.identity,
        batch_size,
        lambda rows: list(stream.read(rows)),
    )
