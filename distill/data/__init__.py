"""Sources of real images, one file each; the file's name is its name in the config."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from distill.config.settings import Settings

if TYPE_CHECKING:
    from jaxtyping import Float, Int64
    from torch import Tensor

    from distill.types import DataSource


@dataclasses.dataclass(frozen=True)
class Captions:
    """The captions of images, one or more of each. `texts` are all of them, `first` the place of each image's first."""

    of_images: Sequence[tuple[str, ...]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    @functools.cached_property
    def texts(self) -> list[str]:
        return [caption for captions in self.of_images for caption in captions]

    @functools.cached_property
    def first(self) -> list[int]:
        return [0, *itertools.accumulate(len(captions) for captions in self.of_images)][:-1]

    @functools.cached_property
    def _counts(self) -> dict[int, int]:
        return {first: len(captions) for first, captions in zip(self.first, self.of_images, strict=True)}

    def draw(self, first: Int64[Tensor, " b"], u: Float[Tensor, " b"]) -> Int64[Tensor, " b"]:
        """One caption of each image, whose first is given, by the numbers u, uniform in (0, 1)."""
        import torch

        counts = torch.tensor([self._counts[place] for place in first.tolist()])
        return first + (u * counts).long().clamp_max(counts - 1)


class DataSettings(Settings):
    """Settings of a data source. `load` opens one split of it."""

    @property
    def has_held_out(self) -> bool:
        """It can be loaded with the split `held_out`."""
        return getattr(self, "held_out_path", None) is not None

    def load(self, split: str = "train") -> DataSource:
        raise TypeError(f"{type(self).__name__} is not a data source")


@dataclasses.dataclass(frozen=True)
class InMemory:
    """Images (n, c, h, w) float32 in [-1, 1] and int64 labels (n,), or None, held in memory."""

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
