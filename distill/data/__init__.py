"""Sources of real images, one file each; the file's name is its name in the config."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from distill.registry import Settings

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class DataSource(Protocol):
    """Images by index: `source[i]` is (image in [-1, 1] as (c, h, w) float32, label as int; 0 where there are none)."""

    @property
    def image_shape(self) -> tuple[int, ...]: ...
    @property
    def label_count(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> tuple[Tensor, int]: ...


class DataSettings(Settings):
    """Settings of a data source. `load` opens one split of it."""

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
