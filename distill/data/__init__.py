"""Images and prompts as tensors, and the base class of the settings of data sources."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from distill.config.settings import Settings

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int64
    from torch import Tensor

    from distill.types import DataSource


class DataSettings(Settings):
    """Settings of a source of real images. Each file in `distill/data/sources` defines one source."""

    @property
    def has_held_out(self) -> bool:
        """True if `load("held_out")` works."""
        return False

    @property
    def holds_latents(self) -> bool:
        """True if `load` gives latents of an autoencoder, which are no images."""
        return False

    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes by their labels, empty if they have none."""
        return ()

    def load(self, split: str = "train") -> DataSource:
        """Open the split `train` or `held_out`."""
        raise TypeError(f"{type(self).__name__} is not a data source")


@dataclasses.dataclass(frozen=True)
class InMemory:
    """A `DataSource` of images in memory: float32 (n, c, h, w) in [-1, 1], and int64 labels (n,) or None."""

    images: Tensor
    labels: Tensor | None
    label_count: int = 0

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], 0 if self.labels is None else int(self.labels[index])

    @property
    def nbytes(self) -> int:
        return self.images.nbytes

    def to(self, device: torch.device) -> InMemory:
        labels = None if self.labels is None else self.labels.to(device)
        return dataclasses.replace(self, images=self.images.to(device), labels=labels)

    def batch(self, indices: Int64[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        labels = indices.new_zeros(len(indices)) if self.labels is None else self.labels[indices]
        return self.images[indices], labels


@dataclasses.dataclass(frozen=True)
class Captions:
    """One or more captions of each image."""

    of_images: Sequence[tuple[str, ...]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    @functools.cached_property
    def texts(self) -> list[str]:
        """All captions, image by image."""
        return [caption for captions in self.of_images for caption in captions]

    @functools.cached_property
    def first(self) -> list[int]:
        """The position of each image's first caption in `texts`."""
        return [0, *itertools.accumulate(len(captions) for captions in self.of_images)][:-1]

    @functools.cached_property
    def _counts(self) -> dict[int, int]:
        return {first: len(captions) for first, captions in zip(self.first, self.of_images, strict=True)}

    def draw(self, first: Int64[Tensor, " b"], u: Float[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """Choose a caption of each image by the position of its first and a number u, uniform in (0, 1)."""
        import torch

        counts = torch.tensor([self._counts[position] for position in first.tolist()])
        return first + (u * counts).long().clamp_max(counts - 1)


@runtime_checkable
class Captioned(Protocol):
    """A `DataSource` whose label of an image is the position of its first caption."""

    captions: Captions
