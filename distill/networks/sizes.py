"""Sizes of our own networks, as settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import Field

from distill.config.settings import Settings


class UNetSizes(Settings):
    """Sizes of our own U-Net. Resolution, channels and number of labels are those of the data."""

    width: int = Field(32, ge=4)
    """Channels at full resolution. More make the network stronger and slower."""
    multipliers: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 2), min_length=1)
    """Channels of each level as a multiple of `width`. Each level after the first halves the resolution."""
    blocks: int = Field(2, ge=1)
    """Residual blocks in each encoder level; a decoder level has one more."""
    attention: tuple[int, ...] = ()
    """Resolutions, in pixels, whose blocks have self-attention; none by default."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout probability in the residual blocks during training. More delays the memorising of small data
    sets."""
    sigma_data: float = Field(0.5, gt=0)
    """Standard deviation of the images' values, for EDM's preconditioning. The default is EDM's, for images
    in [-1, 1]."""


class MLPSizes(Settings):
    """Sizes of a residual multilayer perceptron for vectors."""

    width: int = Field(64, ge=4)
    """Hidden units of each layer. More fit finer detail, and cost more: time grows with width^2."""
    blocks: int = Field(3, ge=1)
    """Residual blocks. Time grows in proportion."""
    sigma_data: float = Field(1.0, gt=0)
    """Standard deviation of the data, which EDM's preconditioning scales inputs and outputs by (Karras et al.
    2022, table 1). The default fits vectors of unit scale."""


def depth_channels(levels: Sequence[tuple[int, int]]) -> dict[str, int]:
    """Return the channels at each depth of a U-Net with these resolutions and channels, finest first.

    The depths are named by their resolutions; the last, "bottleneck", is behind the coarsest level.
    """
    return {str(resolution): width for resolution, width in levels} | {"bottleneck": levels[-1][1]}


Sizes = TypeVar("Sizes", bound=Settings)


def split_sizes(description: dict[str, Any], kind: type[Sizes]) -> tuple[dict[str, Any], Sizes]:
    """Split a network's description into its other entries and its sizes."""
    sizes = {name: value for name, value in description.items() if name in kind.model_fields}
    others = {name: value for name, value in description.items() if name not in sizes}
    return others, kind.model_validate(sizes)
