"""Sources of real images."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

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
