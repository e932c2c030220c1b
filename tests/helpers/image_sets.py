"""Sets of images in bytes, as streams and measured, and their hash."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from distill.data.images import to_bytes
from distill.data.sources.array import InBytes
from distill.data.sources.digits import Settings as Digits
from distill.eval.features import load_extractor
from distill.eval.images.streams import DataImages, ImageStream
from distill.eval.protocols import default_protocol
from distill.eval.run.evaluate import ImageSet, measure_images


def pixels_sha256(pixels: UInt8[Tensor, "n c h w"]) -> str:
    """Hash the bytes of images in the order (n, c, h, w)."""
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()


def pixels_of(stream: ImageStream) -> UInt8[Tensor, "n c h w"]:
    """Read all images of a stream."""
    images = list(stream.read(range(len(stream))))
    assert all(isinstance(image, Tensor) for image in images)
    return torch.stack(images)


def labels_of(stream: ImageStream) -> list[int]:
    """Read all labels of a stream."""
    return [stream.label(row) for row in range(len(stream))]


def byte_images(
    pixels: UInt8[Tensor, "n c h w"], labels: Int64[Tensor, " n"] | None = None, label_count: int = 0
) -> DataImages:
    """Make a stream of images in memory."""
    return DataImages(InBytes(pixels, labels, label_count), "images", {})


def image_set(stream: ImageStream, name: str) -> ImageSet:
    """Measure a stream under the protocol that suits its images."""
    protocol = default_protocol(tuple(pixels_of(stream).shape[1:]))
    return measure_images(stream, name, protocol, load_extractor(protocol.features))


def save_held_out_digits(path: Path) -> Path:
    """Write the real held-out digits as an array file with labels, and return its path."""
    source = Digits().load("held_out")
    np.savez(path, images=to_bytes(source.images).numpy(), labels=source.labels.numpy())
    return path
