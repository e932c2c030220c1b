"""Sources of real images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor


@runtime_checkable
class DataSource(Protocol):
    """A source of images by index.

    `source[i]` is an image (c, h, w) in [-1, 1], float32, and its label, 0 if it has none.
    """

    @property
    def image_shape(self) -> tuple[int, ...]: ...
    @property
    def label_count(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


@runtime_checkable
class InMemorySource(DataSource, Protocol):
    """A `DataSource` whose images are in memory, so that a whole batch is read at once."""

    @property
    def nbytes(self) -> int:
        """Bytes of the images."""
        ...

    def to(self, device: torch.device) -> InMemorySource:
        """Return the source with its images and labels on a device."""
        ...

    def batch(self, indices: Int64[Tensor, " b"]) -> tuple[Tensor, Tensor]:
        """Return images, (b, c, h, w) in [-1, 1], and labels, (b,), 0 if there are none."""
        ...


@runtime_checkable
class Labelled(DataSource, Protocol):
    """A `DataSource` that knows all labels, (n,), without reading images."""

    @property
    def labels(self) -> Sequence[int] | Tensor | None: ...
