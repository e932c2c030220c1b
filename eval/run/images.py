"""Where images come from: a data source, a folder, an array file, a student, or a teacher's sampler. All are quantised here."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Int64, UInt8
from pydantic import ValidationError
from torch import Tensor

from distill.config.config_file import describe
from distill.config.errors import UserError, did_you_mean
from distill.config.settings import Choice
from distill.data import DataSettings
from distill.data.encoded_prompts import EncodedPrompts
from distill.data.sources.array import read_array
from distill.data.sources.image_folder import ImageFolder
from distill.diffusion.samplers import Heun
from distill.diffusion.sampling import balanced_labels, sample_generator, sample_teacher
from distill.types import Condition, DataSource, Denoiser, Generator
from eval.features import quantise
from eval.metrics.subsets import evenly

NAMED_FOLDERS = (
    "has sub-folders with names, which are not known as labels; expected none, or their names to be numbers,"
)
CHUNK = 512
"""Images held as floats at once."""


@dataclasses.dataclass(frozen=True)
class Images:
    """Quantised images (n, c, h, w), the label of each (n,) or None, how many labels there are, what sampling them took, and what the labels are
    called where folders name them."""

    pixels: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"] | None = None
    label_count: int = 0
    seconds: float | None = None
    evaluations: int | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape[1:])

    @property
    def sha256(self) -> str:
        """Hash of the bytes, in the order (n, c, h, w): equal hashes are equal images in equal order."""
        return hashlib.sha256(self.pixels.contiguous().numpy().tobytes()).hexdigest()

    def some(self, count: int | None, origin: str) -> Images:
        """`count` images, evenly chosen, or all. Raises UserError where there are fewer."""
        if count is None:
            return self
        if count > len(self):
            raise UserError(f"--n {count}: {origin} holds {len(self)} images; expected at most as many")
        rows = evenly(len(self), count)
        return dataclasses.replace(
            self, pixels=self.pixels[rows], labels=None if self.labels is None else self.labels[rows]
        )


def parse_data(text: str, flag: str = "--data") -> DataSettings:
    """A data source from `digits`, or `NAME:PATH` or `NAME:PATH:HELD_OUT_PATH`. Raises UserError for anything else."""
    name, *paths = text.split(":")
    sources = Choice("data.sources")
    if name not in sources.names:
        raise UserError(
            f"{flag} {text}: '{name}' is not in distill/data/sources{did_you_mean(name, sources.names)}"
        )
    settings = sources.settings(name)
    if "path" not in settings.model_fields and paths:
        raise UserError(f"{flag} {text}: {name} takes no path; expected {flag} {name}")
    if "path" in settings.model_fields and (not 1 <= len(paths) <= 2 or not all(paths)):
        raise UserError(f"{flag} {text}: expected {name}:PATH or {name}:PATH:HELD_OUT_PATH")
    try:
        return cast(
            DataSettings, settings.model_validate(dict(zip(("path", "held_out_path"), paths, strict=False)))
        )
    except ValidationError as error:
        raise UserError(f"{flag} {text}: {describe(error, {})}") from error


def read_real(data: DataSettings) -> tuple[Images, Images | None]:
    """The training images and the held-out ones, or None where the source has none. Raises UserError where they cannot be read."""
    train = gather(data.load("train"), "training images")
    if not data.has_held_out:
        return train, None
    held_out = gather(data.load("held_out"), "held-out images")
    if held_out.shape != train.shape:
        raise UserError(f"held-out images of {held_out.shape}; expected {train.shape} as the training images")
    return train, held_out


def gather(source: DataSource, origin: str) -> Images:
    """All images of a source, in its order, and their labels where it has any."""
    chunks: list[Tensor] = []
    labels: list[int] = []
    for start in range(0, len(source), CHUNK):
        rows = [source[index] for index in range(start, min(start + CHUNK, len(source)))]
        chunks.append(quantise(torch.stack([image for image, _ in rows]), origin))
        labels.extend(label for _, label in rows)
    known = torch.tensor(labels) if source.label_count else None
    return Images(torch.cat(chunks), known, source.label_count, classes=getattr(source, "classes", ()))


def read_folder(path: Path, real: Images) -> Images:
    """Images of a folder, grey where the real ones are; labels from an index such as `sample.py`'s, or one sub-folder for each of the real labels.

    Raises UserError where there are none, or they do not fit the real images.
    """
    folder = ImageFolder(path, grey=real.shape[0] == 1, classes=real.classes)
    if folder.classes and real.labels is not None and not real.classes:
        raise UserError(f"{path}: {NAMED_FOLDERS} as the labels of the data, 0 to {real.label_count - 1}")
    return _fitting(gather(folder, str(path)), real, str(path))


def read_array_file(path: Path, real: Images) -> Images:
    """Images of a `.npy` or `.npz` file, with labels where it has them. Raises UserError where they do not fit the real images."""
    return _fitting(gather(read_array(path), str(path)), real, str(path))


def _fitting(images: Images, real: Images, origin: str) -> Images:
    if images.shape != real.shape:
        raise UserError(f"{origin}: images of {images.shape}; expected {real.shape} as the data's")
    if real.label_count and images.label_count > real.label_count:
        raise UserError(
            f"{origin}: label {images.label_count - 1} is out of range; expected labels from 0 to {real.label_count - 1} as the data's"
        )
    return images


def draw_student(
    generator: Generator, seeds: range, batch_size: int, prompts: EncodedPrompts | None = None
) -> Images:
    """Images of a student, label i % label_count for image i, or prompt i % len(prompts). Raises UserError where one is not finite."""

    def sample(rows: Sequence[int], cond: Condition) -> Tensor:
        return sample_generator(generator, rows, cond, batch_size, progress=sys.stderr.isatty())

    return _draw(generator, seeds, batch_size, generator.evaluations, sample, "student", prompts)


def draw_teacher(
    teacher: Denoiser,
    seeds: range,
    batch_size: int,
    prompts: EncodedPrompts | None = None,
    guidance: float = 1.0,
) -> Images:
    """Images of a teacher's sampler, from the noise and the labels or prompts that a student is given for the same seeds. Raises as for a student."""
    heun = Heun(guidance=guidance)

    def sample(rows: Sequence[int], cond: Condition) -> Tensor:
        return sample_teacher(teacher, rows, cond, heun, batch_size, progress=sys.stderr.isatty())

    return _draw(teacher, seeds, batch_size, heun.evaluations, sample, "teacher", prompts)


def _draw(
    network: Generator | Denoiser,
    seeds: range,
    batch_size: int,
    evaluations: int,
    sample: Callable[[range, Condition], Tensor],
    role: str,
    prompts: EncodedPrompts | None,
) -> Images:
    """Sample and time. One batch is sampled beforehand for nothing: it pays for memory, threads and kernels."""
    cond = (
        balanced_labels(len(seeds), network.label_count) if prompts is None else prompts.balanced(len(seeds))
    )
    sample(seeds[:batch_size], cond[:batch_size])
    start = time.perf_counter()
    images = sample(seeds, cond)
    seconds = time.perf_counter() - start
    return Images(
        quantise(images, f"the {role}'s images"), cond.label, network.label_count, seconds, evaluations
    )
