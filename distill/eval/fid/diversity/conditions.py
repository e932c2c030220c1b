"""Streams with several images of each prompt or label, and the prompt or label of each image."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Int64
from torch import Tensor

from distill.config.errors import UserError
from distill.eval.fid.subjects import Subject, stream_opener
from distill.eval.images.pipelines import PipelineImages
from distill.eval.images.sources import array_images
from distill.eval.images.streams import FileImages, ImageStream, NetworkImages
from distill.eval.preference.found_images import recorded_prompts
from distill.eval.protocols import Protocol


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The number of each image's prompt or label; `kind` is "prompt" or "label"."""

    kind: str
    numbers: Int64[Tensor, " n"]


def open_stream(subject: Subject, each: int, protocol: Protocol) -> ImageStream:
    """Open all images of files, or `each` images of each prompt or label of a network."""
    options = subject.options
    if options.images is not None:
        return FileImages(options.images)
    if options.array is not None:
        return array_images(options.array)
    # Each prompt is a condition of its own, whatever its category.
    stream = stream_opener(subject, each)(protocol, options.seed or 0)
    assert isinstance(stream, NetworkImages | PipelineImages)
    count = len(stream.prompts) if stream.prompts else stream.label_count
    if not count:
        raise UserError(f"{stream.origin}: takes neither prompts nor labels; expected a network that does")
    stream.count = each * count
    return stream


def conditions_of(stream: ImageStream) -> Conditions:
    """Return the prompts that an index names, those that a network takes in turn, or the labels."""
    rows = torch.arange(len(stream))
    if isinstance(stream, NetworkImages | PipelineImages) and stream.prompts:
        return Conditions("prompt", rows % len(stream.prompts))
    if isinstance(stream, FileImages):
        prompts = recorded_prompts(stream.files)
        if prompts:
            places = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
            return Conditions("prompt", torch.tensor([places[prompt] for prompt in prompts]))
    if not stream.label_count:
        expected = "expected folders of labels, or the samples.json that sample.py writes"
        raise UserError(f"{stream.origin}: has neither prompts nor labels; {expected}")
    return Conditions("label", torch.tensor([stream.label(row) for row in range(len(stream))]))
